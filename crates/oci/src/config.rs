//! The configuration of an image: what runs in it, and the digests of its unpacked layers.

use serde::Deserialize;
use tarn_types::ImageConfig;

use crate::{Digest, OciError, manifest::Platform};

/// The most variables, and words of a command, that a configuration may have.
const MOST_ENTRIES: usize = 4096;

/// What of a configuration counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) run: ImageConfig,
    /// The digest of each layer, uncompressed, the lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Debug, Deserialize)]
struct ConfigFile {
    #[serde(flatten)]
    platform: Platform,
    #[serde(default)]
    config: Option<RunFile>,
    rootfs: RootFsFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RunFile {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct RootFsFile {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

// === impl Config ===

impl Config {
    /// Reads the configuration of an image with so many layers, which must be for a machine.
    pub(crate) fn parse(bytes: &[u8], layers: usize, machine: &Platform) -> Result<Self, OciError> {
        let bad = |detail: &str| OciError::malformed("the image's configuration", detail);
        let file: ConfigFile =
            serde_json::from_slice(bytes).map_err(|error| bad(&error.to_string()))?;
        if !file.platform.runs_on(machine) {
            let (wanted, offered) = (machine.to_string(), file.platform.to_string());
            return Err(OciError::NoPlatform { wanted, offered });
        }
        if file.rootfs.kind != "layers" {
            return Err(bad("`rootfs.type` is not `layers`"));
        }
        let diff_ids = file.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != layers {
            let count = diff_ids.len();
            return Err(bad(&format!("it has {count} digests of layers, and there are {layers}")));
        }
        let run = file.config.unwrap_or_default();
        let env = run.env.unwrap_or_default();
        let (entrypoint, cmd) = (run.entrypoint.unwrap_or_default(), run.cmd.unwrap_or_default());
        if [env.len(), entrypoint.len(), cmd.len()].iter().any(|count| *count > MOST_ENTRIES) {
            let limit = MOST_ENTRIES as u64;
            return Err(OciError::TooLarge {
                what: "the length of a list in its configuration",
                limit,
            });
        }
        let texts = env.iter().chain(&entrypoint).chain(&cmd);
        if texts.chain(&run.user).chain(&run.working_dir).any(|text| text.contains('\0')) {
            return Err(bad("a value holds a NUL, which no program can be given"));
        }
        let env = env.into_iter().map(|line| match line.split_once('=') {
            Some(("", _)) | None => Err(bad("an entry of `Env` is not `NAME=value`")),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        });
        let run = ImageConfig {
            env: env.collect::<Result<_, _>>()?,
            user: run.user.filter(|user| !user.is_empty()),
            working_dir: run.working_dir.filter(|dir| !dir.is_empty()),
            entrypoint,
            cmd,
        };
        Ok(Self { run, diff_ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, layers: usize) -> Result<Config, OciError> {
        let machine =
            Platform { architecture: "amd64".to_owned(), os: "linux".to_owned(), variant: None };
        Config::parse(text.as_bytes(), layers, &machine)
    }

    #[test]
    fn what_is_said_of_running_is_kept() {
        let config = parse(
            r#"{"architecture":"amd64","os":"linux","history":[{"empty_layer":true}],
                "config":{"Env":["PATH=/bin","EMPTY=","EQ=a=b"],"User":"app:staff","WorkingDir":"/srv",
                "Entrypoint":["/run"],"Cmd":null,"Labels":{"a":"b"}},
                "rootfs":{"type":"layers","diff_ids":[]}}"#,
            0,
        );
        let run = config.unwrap().run;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(run.env, [pair("PATH", "/bin"), pair("EMPTY", ""), pair("EQ", "a=b")]);
        assert_eq!(
            (run.user.as_deref(), run.working_dir.as_deref()),
            (Some("app:staff"), Some("/srv"))
        );
        assert_eq!((run.entrypoint, run.cmd), (vec!["/run".to_owned()], vec![]));
        let bare =
            r#"{"architecture":"amd64","os":"linux","config":null,"rootfs":{"type":"layers"}}"#;
        assert_eq!(parse(bare, 0).unwrap().run, ImageConfig::default());
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let of = |config: &str| {
            format!(
                r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers"}}}}"#
            )
        };
        let digest = Digest::of(b"");
        let cases = [
            ("[]".to_owned(), 0),
            ("{}".to_owned(), 0),
            (of("{}"), 1),
            (of(r#"{"Env":["NOTHING"]}"#), 0),
            (of(r#"{"Env":["=value"]}"#), 0),
            (of(r#"{"Env":["A=\u0000"]}"#), 0),
            (of(r#"{"Cmd":"sh"}"#), 0),
            (of(r#"{"Cmd":["a\u0000b"]}"#), 0),
            (of(r#"{"User":"\u0000"}"#), 0),
            (of(&format!(r#"{{"Cmd":[{}""]}}"#, r#""","#.repeat(4096))), 0),
            (r#"{"architecture":"arm64","os":"linux","rootfs":{"type":"layers"}}"#.to_owned(), 0),
            (r#"{"architecture":"amd64","os":"windows","rootfs":{"type":"layers"}}"#.to_owned(), 0),
            (r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"base"}}"#.to_owned(), 0),
            (
                format!(
                    r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
                ),
                0,
            ),
            (
                r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["md5:1"]}}"#
                    .to_owned(),
                1,
            ),
        ];
        for (text, layers) in cases {
            assert!(parse(&text, layers).is_err(), "{text}");
        }
    }
}
