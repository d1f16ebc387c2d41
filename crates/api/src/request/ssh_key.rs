//! `POST /platform/v1/users/me/ssh-keys` (spec 08 §5), and what a public key is: a line as in
//! `authorized_keys`, whose blob is of RFC 4253 §6.6, RFC 5656 §3.1, RFC 8709 §4, or of OpenSSH's
//! PROTOCOL.u2f.
//!
//! Read here and not by a library: an SSH server will check what a peer proves, and this needs to
//! know no more than that the line is one that can be proved.

use base64::{Engine as _, engine::general_purpose};
use sha2::{Digest as _, Sha256};
use tarn_types::SshPublicKey;
use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, parse_body},
};
use crate::Refusal;

/// A key to register.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = CreateSshKeyRequest)]
#[schema(rename_all = "camelCase")]
pub struct CreateSshKey {
    /// What its owner calls it: 1 to 128 characters; need not be unique.
    pub name: String,
    /// The public key, as in `authorized_keys`: its algorithm, its base64, perhaps a comment.
    #[schema(value_type = String)]
    pub public_key: SshPublicKey,
}

/// The longest name, in characters.
const NAME_LONGEST: usize = 128;

/// The longest line that is looked at: RSA of 16384 bits takes 2.8 kB, and a comment is short.
const LINE_LONGEST: usize = 8192;

/// RSA keys in bits. What is shorter can be broken; OpenSSH takes none longer.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=16_384;

/// What the blob of a key consists of.
enum Shape {
    /// 32 bytes; for a hardware key, also its application.
    Ed25519 { hardware: bool },
    /// A point on that curve, uncompressed, of so many bytes.
    Ecdsa { curve: &'static str, point: usize, hardware: bool },
    /// Two positive numbers: exponent and modulus.
    Rsa,
}

// === impl CreateSshKey ===

impl CreateSshKey {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the field that is missing or cannot be what it is; never repeats the key, which may be
    /// a private one by mistake.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let missing = |path| move || Refusal::invalid(path, "is missing");
        let name = fields.text("name")?.ok_or_else(missing("name"))?.trim();
        let length = name.chars().count();
        if length == 0 || length > NAME_LONGEST || name.chars().any(char::is_control) {
            let reason =
                format!("1 to {NAME_LONGEST} characters, none of them a control character");
            return Err(Refusal::invalid("name", reason));
        }
        let line = fields.text("publicKey")?.ok_or_else(missing("publicKey"))?;
        let public_key = public_key(line).map_err(|wrong| Refusal::invalid("publicKey", wrong))?;
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value: Self { name: name.to_owned(), public_key }, ignored })
    }
}

/// Reads a public key; the error says what would be one.
fn public_key(text: &str) -> Result<SshPublicKey, String> {
    let text = text.trim();
    if text.contains("PRIVATE KEY") {
        let wrong = "this is a private key, which must stay with its owner; send the file that \
                     ends in `.pub`";
        return Err(wrong.to_owned());
    }
    if text.len() > LINE_LONGEST || text.contains(['\n', '\r', '\0']) {
        return Err(format!("must be one line of at most {LINE_LONGEST} bytes"));
    }
    let mut words = text.split_ascii_whitespace();
    let (algorithm, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Some(shape) = shape(algorithm) else {
        let known = ALGORITHMS.map(|(name, _)| name).join("`, `");
        return Err(format!(
            "must be a line as `ssh-keygen` writes it to a file `.pub`; it begins with one of \
             `{known}`"
        ));
    };
    let damaged = || format!("what follows `{algorithm}` is no key of that kind; copy all of it");
    let bytes = general_purpose::STANDARD.decode(blob).map_err(|_wrong| damaged())?;
    let mut rest = bytes.as_slice();
    if field(&mut rest) != Some(algorithm.as_bytes()) {
        return Err(damaged());
    }
    match fits(&shape, &mut rest) {
        Some(true) if rest.is_empty() => {}
        Some(false) => {
            let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
            return Err(format!("RSA keys have {least} to {most} bits; make another one"));
        }
        Some(true) | None => return Err(damaged()),
    }
    let hash = general_purpose::STANDARD_NO_PAD.encode(Sha256::digest(&bytes));
    Ok(SshPublicKey {
        algorithm: algorithm.to_owned(),
        fingerprint: format!("SHA256:{hash}"),
        line: format!("{algorithm} {}", general_purpose::STANDARD.encode(&bytes)),
    })
}

const ALGORITHMS: [(&str, Shape); 7] = [
    ("ssh-ed25519", Shape::Ed25519 { hardware: false }),
    ("ecdsa-sha2-nistp256", Shape::Ecdsa { curve: "nistp256", point: 65, hardware: false }),
    ("ecdsa-sha2-nistp384", Shape::Ecdsa { curve: "nistp384", point: 97, hardware: false }),
    ("ecdsa-sha2-nistp521", Shape::Ecdsa { curve: "nistp521", point: 133, hardware: false }),
    ("ssh-rsa", Shape::Rsa),
    ("sk-ssh-ed25519@openssh.com", Shape::Ed25519 { hardware: true }),
    (
        "sk-ecdsa-sha2-nistp256@openssh.com",
        Shape::Ecdsa { curve: "nistp256", point: 65, hardware: true },
    ),
];

fn shape(algorithm: &str) -> Option<Shape> {
    ALGORITHMS.into_iter().find(|(name, _)| *name == algorithm).map(|(_, shape)| shape)
}

/// Says whether what follows the algorithm is a key of that shape: `None` if not, false if it is
/// one that is too weak or too long.
fn fits(shape: &Shape, rest: &mut &[u8]) -> Option<bool> {
    match shape {
        Shape::Ed25519 { hardware } => {
            let key = field(rest)?;
            let application = if *hardware { !field(rest)?.is_empty() } else { true };
            (key.len() == 32 && application).then_some(true)
        }
        Shape::Ecdsa { curve, point, hardware } => {
            let (named, key) = (field(rest)?, field(rest)?);
            let application = if *hardware { !field(rest)?.is_empty() } else { true };
            let uncompressed = key.len() == *point && key.first() == Some(&4);
            (named == curve.as_bytes() && uncompressed && application).then_some(true)
        }
        Shape::Rsa => {
            let (exponent, modulus) = (number(rest)?, number(rest)?);
            let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
            if !odd(exponent) || !odd(modulus) {
                return None;
            }
            let leading = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
            Some(RSA_BITS.contains(&(modulus.len() * 8 - leading)))
        }
    }
}

/// Takes a field: its length in four bytes, then so many bytes.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (field, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(field)
}

/// Takes a positive number, without the zero byte that tells it from a negative one.
fn number<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    match field(rest)? {
        [] => None,
        [0, number @ ..] => number.first().is_some_and(|first| first & 0x80 != 0).then_some(number),
        [first, ..] if first & 0x80 != 0 => None,
        number => Some(number),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `ssh-keygen` made them; the fingerprints are those of `ssh-keygen -l`.
    const KEYS: [(&str, &str); 5] = [
        (
            "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBTYHruh\
             XVULCr4nvX2rbLTGnIZdlDxs2VBSJx0Ssp8BIQ/xKMpue0NEUaBVfwSkANo8F7ryxmd484OuSO+Rg+o=",
            "SHA256:td5sNm05SgWwb/tvo8KjHOVqv3zkgSafuts/OJ4GfQI",
        ),
        (
            "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBN66XQed\
             GQFDhMha0Z+oQ+qCRvhXoxweUbqIM/PZLBBfW2Ic86NAu0PlDBAjhAY7XdjqZTLHdLWyaLbaXDrXTIG/\
             EUCx8Ob2kLj7iSNYa+u1cAC910HIFREbKIFY+ma2EQ==",
            "SHA256:rAL8JAQpFTfTLrKKmpKZDL/z0Jop9dQe9b4mkHnWU4c",
        ),
        (
            "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAC1j01+\
             K7xgZxr/gRvk33ICHNSEMUtCYzbIbUP7SAdN3KkWITszuPfDPLMdYVzOKDIq+4Ia45gwC5ZM08RO5kgo\
             NACxw96Ii2na7VIE9C6ng0edODxXLoAkY4cj0y8QtukElwM5J4JLws+ABV0CyLNLI3vr79LSC8V40sj1\
             KHGAR7AZ9Q==",
            "SHA256:f7DkMi4r48bn+AQydQGJnYBYiVHsuSIuLaqNHJg7dYY",
        ),
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILClgI4Om46zzGQMPlY2trpoQ3kNr+CHHwqIfdW/IpmH",
            "SHA256:tT/chb7xesdUO0i4PXaTRM0r9MngRVKs1WfgCP1mfHs",
        ),
        (
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC36lcReAcZUVHgdJAIy9PQ8RQEXTUEemctsm19vZP/\
             0zwzzp3fcofypyGm7AiNDgesRsOrANtlIwZs0epKWdryj4ZApW3EIRgA6FryC8vsZi33jQ9Ycp3Jj92d\
             okF62QMF2yi3VKnr+Fsj8Xv9fGa25Laf8mUYrJjPWnjFItKNxejHuH4iy5XPEYLz7gNo+fsSzJmzonf+\
             ZrrW4nmaX18Ya5j8tnmlSsp2hwqZPt5GhiQn6vco2sC7DvMcZ38pb6WiiFluadFYhYiMZpORNhwwbnRt\
             Wx/btEVXnWdOrdmaFnlf6dNv6cAKrHedY1uUTpnLaBhjpyOlmp7DkgijISlR",
            "SHA256:aMtWCN1lq8mdyKQ6onDNGJBoCi92RjMknuurR3mb7So",
        ),
    ];

    fn blob(fields: &[&[u8]]) -> String {
        let mut bytes = Vec::new();
        for field in fields {
            bytes.extend(u32::try_from(field.len()).expect("it is short").to_be_bytes());
            bytes.extend_from_slice(field);
        }
        general_purpose::STANDARD.encode(bytes)
    }

    #[test]
    fn keys_as_ssh_keygen_makes_them() {
        for (line, fingerprint) in KEYS {
            let key = public_key(line).unwrap_or_else(|wrong| unreachable!("{line}: {wrong}"));
            assert_eq!(key.fingerprint, fingerprint);
            let words: Vec<_> = line.split(' ').take(2).collect();
            assert_eq!(key.line, words.join(" "));
            assert_eq!(key.algorithm, words[0]);
            assert_eq!(
                public_key(&format!("  {line} and more\n")),
                Ok(key),
                "a comment is nothing"
            );
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_to_do() {
        let ed = "ssh-ed25519";
        let rsa = |bits: usize| {
            let mut modulus = vec![0xff; bits / 8];
            modulus.insert(0, 0);
            format!("ssh-rsa {}", blob(&[b"ssh-rsa", &[1, 0, 1], &modulus]))
        };
        assert!(public_key(&rsa(2048)).is_ok());
        let point = [4_u8; 65];
        let p256: &[u8] = b"ecdsa-sha2-nistp256";
        let table = [
            (String::new(), "must be a line as `ssh-keygen`"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nx".to_owned(), "this is a private key"),
            ("ssh-dss AAAA".to_owned(), "must be a line as `ssh-keygen`"),
            (format!("no-pty {ed} AAAA"), "must be a line as `ssh-keygen`"),
            (format!("{ed} AAAA\n{ed} AAAA"), "must be one line"),
            (format!("{ed} {}", "A".repeat(9000)), "must be one line"),
            (ed.to_owned(), "is no key of that kind"),
            (format!("{ed} ????"), "is no key of that kind"),
            (format!("{ed} {}", blob(&[ed.as_bytes(), &[1; 31]])), "is no key of that kind"),
            (format!("{ed} {}", blob(&[ed.as_bytes(), &[1; 32], b"x"])), "is no key of that kind"),
            (format!("{ed} {}", blob(&[b"ssh-rsa", &[1; 32]])), "is no key of that kind"),
            (format!("ssh-rsa {}", blob(&[b"ssh-rsa", &[0x80], &[1; 256]])), "is no key"),
            (rsa(1024), "2048 to 16384 bits"),
            (
                format!("ecdsa-sha2-nistp256 {}", blob(&[p256, b"nistp384", &point])),
                "is no key of that kind",
            ),
            (
                format!("ecdsa-sha2-nistp256 {}", blob(&[p256, b"nistp256", &[2; 65]])),
                "is no key of that kind",
            ),
        ];
        for (line, expected) in table {
            let wrong = public_key(&line).expect_err(&line);
            assert!(wrong.contains(expected), "{line}: {wrong}");
        }
    }

    #[test]
    fn a_request_names_what_is_wrong_and_repeats_no_key() {
        let secret = "-----BEGIN OPENSSH PRIVATE KEY-----c2VjcmV0";
        for (body, path) in [
            ("{}".to_owned(), "name: "),
            (r#"{"name":" ","publicKey":"x"}"#.to_owned(), "name: "),
            (r#"{"name":"a\u0007","publicKey":"x"}"#.to_owned(), "name: "),
            (format!(r#"{{"name":"{}","publicKey":"x"}}"#, "n".repeat(129)), "name: "),
            (r#"{"name":"a"}"#.to_owned(), "publicKey: "),
            (r#"{"name":"a","publicKey":5}"#.to_owned(), "publicKey: "),
            (format!(r#"{{"name":"a","publicKey":"{secret}"}}"#), "publicKey: "),
        ] {
            let refusal = CreateSshKey::parse(body.as_bytes()).expect_err(&body).to_string();
            assert!(refusal.starts_with(path), "{body}: {refusal}");
            assert!(!refusal.contains("c2VjcmV0"), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200), which in 0_usize..7,
        ) {
            let (algorithm, _) = ALGORITHMS[which];
            let text = general_purpose::STANDARD.encode(bytes);
            let line = format!("{algorithm} {text}");
            prop_assert!(public_key(&line).is_err());
        }
    }
}
