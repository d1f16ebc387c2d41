//! How much text of a caller's goes into the record of a sandbox, a pool or an image.
//!
//! A record is held in memory while it counts, is read whole at every start, and stays in the store
//! for weeks after the end of its sandbox. What has a bound of its own, such as a policy, is not
//! judged here.

use tarn_types::{ImageConfig, SecretName};

use crate::ControlError;

/// The most that all of it may take, in bytes of JSON, which is how it is stored.
const MOST: usize = 64 << 10;

/// Checks what a sandbox or a pool is to start with.
///
/// # Errors
/// Names the larger of the two fields if they are too large together.
pub(crate) fn check_launch(
    entrypoint: Option<&[String]>,
    secret_names: Option<&[SecretName]>,
) -> Result<(), ControlError> {
    let words = written(entrypoint.unwrap_or_default().iter().map(String::as_str));
    let names = written(secret_names.unwrap_or_default().iter().map(SecretName::as_str));
    let bytes = words.saturating_add(names);
    if bytes <= MOST {
        return Ok(());
    }
    let (field, other) = if words >= names {
        ("entrypoint", "secret_names")
    } else {
        ("secret_names", "entrypoint")
    };
    Err(ControlError::LimitExceeded {
        field,
        value: format!("{bytes} bytes of JSON"),
        limit: format!("at most {MOST}, `{other}` included"),
    })
}

/// Checks what counts of an image when it runs: each sandbox that is made from it has that in its
/// record.
///
/// # Errors
/// Says how large it is.
pub(crate) fn check_config(config: &ImageConfig) -> Result<(), ControlError> {
    let ImageConfig { env, user, working_dir, entrypoint, cmd } = config;
    let variables = env.iter().flat_map(|(name, value)| [name, value]);
    let texts = variables.chain(user).chain(working_dir).chain(entrypoint).chain(cmd);
    let bytes = written(texts.map(String::as_str));
    if bytes <= MOST {
        return Ok(());
    }
    let reason = format!(
        "the image's environment, ENTRYPOINT and CMD take {bytes} bytes of JSON; at most {MOST} \
         are kept"
    );
    Err(ControlError::Invalid { field: "dockerfile", reason })
}

/// Returns how many bytes texts take in a list of JSON.
fn written<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    const QUOTES_AND_COMMA: usize = 3;
    let in_text = |text: &str| text.bytes().map(escaped).sum::<usize>();
    texts.map(|text| in_text(text) + QUOTES_AND_COMMA).sum()
}

const fn escaped(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize, word: &str) -> Vec<String> {
        vec![word.to_owned(); count]
    }

    fn names(count: usize) -> Vec<SecretName> {
        let name = |number| format!("{number:061}").replacen('0', "S", 1);
        (0..count).map(|number| name(number).parse().expect("a good name")).collect()
    }

    #[test]
    fn a_launch_has_one_bound_for_all_its_text() {
        let over = |field: &str, bytes: usize, other: &str| {
            Err(format!(
                "{field}: {bytes} bytes of JSON is outside the limit; at most 65536, `{other}` \
                 included"
            ))
        };
        let (entrypoint, secrets) = ("entrypoint", "secret_names");
        let fits = "x".repeat(MOST - 3);
        for (words, names, expected) in [
            (words(0, ""), names(0), Ok(())),
            (words(1, &fits), names(0), Ok(())),
            (words(2, &fits), names(0), over(entrypoint, 2 * MOST, secrets)),
            (words(1, &fits), names(1), over(entrypoint, MOST + 64, secrets)),
            (words(0, ""), names(1024), Ok(())),
            (words(1, ""), names(1024), over(secrets, MOST + 3, entrypoint)),
            (words(1024, &"x".repeat(61)), names(0), Ok(())),
            // What is written longer than it is counts as it is written.
            (words(1, &"\u{1}".repeat(10_922)), names(0), Ok(())),
            (words(1, &"\u{1}".repeat(10_923)), names(0), over(entrypoint, 65_541, secrets)),
            (words(1, &"\"".repeat(32_767)), names(0), over(entrypoint, 65_537, secrets)),
            (words(1, &"\n".repeat(32_766)), names(0), Ok(())),
        ] {
            let checked = check_launch(Some(&words), Some(&names));
            assert_eq!(checked.map_err(|refused| refused.to_string()), expected);
        }
        assert!(check_launch(None, None).is_ok());
    }

    #[test]
    fn every_part_of_an_images_configuration_counts() {
        let large = || "x".repeat(MOST);
        let none = ImageConfig::default;
        assert!(check_config(&none()).is_ok());
        for config in [
            ImageConfig { env: vec![(large(), String::new())], ..none() },
            ImageConfig { env: vec![(String::new(), large())], ..none() },
            ImageConfig { user: Some(large()), ..none() },
            ImageConfig { working_dir: Some(large()), ..none() },
            ImageConfig { entrypoint: vec![large()], ..none() },
            ImageConfig { cmd: vec![large()], ..none() },
            ImageConfig { cmd: words(2, &"x".repeat(MOST / 2)), ..none() },
        ] {
            let refused = check_config(&config).expect_err("too large").to_string();
            assert!(refused.contains("at most 65536 are kept"), "{refused}");
        }
    }
}
