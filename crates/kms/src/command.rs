//! The program, and what is thought of it after a failure.

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use parking_lot::Mutex;
use tarn_hook::Hook;
use tarn_seal::{KeyService, KeyServiceError};
use tokio::time::Instant;
use zeroize::{Zeroize as _, Zeroizing};

/// The longest answer; a sealed data key has some hundred bytes.
const ANSWER_MOST: usize = 64 << 10;
/// How long a failure answers further questions.
const BREATHER: Duration = Duration::from_secs(5);

/// A key service by a program.
#[derive(Debug)]
pub struct KeyCommand {
    hook: Hook,
    failed: Mutex<Option<(Instant, KeyServiceError)>>,
}

// === impl KeyCommand ===

impl KeyCommand {
    /// Takes the program.
    #[must_use]
    pub fn new(hook: Hook) -> Self {
        Self { hook, failed: Mutex::default() }
    }

    async fn ask(
        &self,
        verb: &str,
        key_id: &str,
        bytes: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        if let Some((at, error)) = &*self.failed.lock()
            && at.elapsed() < BREATHER
        {
            return Err(error.clone());
        }
        let answer = self.run(verb, key_id, bytes).await;
        *self.failed.lock() = answer.as_ref().err().map(|error| (Instant::now(), error.clone()));
        answer
    }

    async fn run(
        &self,
        verb: &str,
        key_id: &str,
        bytes: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        let mut input = Zeroizing::new(BASE64_STANDARD.encode(bytes));
        input.push('\n');
        let output = self.hook.run(&[verb, key_id], input.as_bytes(), ANSWER_MOST).await;
        let mut output = output.map_err(|failed| KeyServiceError { detail: chain(&failed) })?;
        // Some write lines of 76 characters.
        let mut kept = 0;
        for at in 0..output.len() {
            if !output[at].is_ascii_whitespace() {
                output[kept] = output[at];
                kept += 1;
            }
        }
        let (text, rest) = output.split_at_mut(kept);
        rest.zeroize();
        let decoded = BASE64_STANDARD.decode(&*text).map(Zeroizing::new);
        // Not the decoder's words: they quote what it read.
        decoded.ok().filter(|bytes| !bytes.is_empty()).ok_or_else(|| KeyServiceError {
            detail: format!(
                "{} {verb} wrote something that is not base64",
                self.hook.program().display()
            ),
        })
    }
}

#[async_trait]
impl KeyService for KeyCommand {
    async fn wrap(&self, key_id: &str, plain: &[u8]) -> Result<Vec<u8>, KeyServiceError> {
        Ok(self.ask("wrap", key_id, plain).await?.to_vec())
    }

    async fn unwrap(
        &self,
        key_id: &str,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        self.ask("unwrap", key_id, wrapped).await
    }
}

/// Writes an error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(below) = cause {
        text.push_str(": ");
        text.push_str(&below.to_string());
        cause = below.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(script: &str, deadline: Duration) -> KeyCommand {
        let command = ["/bin/sh", "-c", script, "kms"].map(str::to_owned);
        KeyCommand::new(Hook::new(&command, deadline).expect("a program"))
    }

    fn soon() -> Duration {
        Duration::from_secs(60)
    }

    /// Seals by writing the key's name before what it is given.
    const SERVICE: &str = r#"
        case "$1" in
        wrap) { printf '%s ' "$2"; base64 -d; } | base64 -w 16 ;;
        unwrap) base64 -d | { read -r key rest; [ "$key" = "$2" ] || exit 1; printf %s "$rest"; } | base64 ;;
        esac"#;

    #[tokio::test]
    async fn what_is_wrapped_is_unwrapped_with_the_same_key() {
        let service = service(SERVICE, soon());
        let plain = b"thirty-two bytes or more than that";
        let wrapped = service.wrap("key/1", plain).await.expect("it wraps");
        assert_eq!(wrapped, [b"key/1 ", &plain[..]].concat());
        assert_eq!(&**service.unwrap("key/1", &wrapped).await.expect("it unwraps"), plain);
        assert!(service.unwrap("key/2", &wrapped).await.is_err());
    }

    #[tokio::test]
    async fn nothing_of_an_answer_is_in_an_error() {
        for (script, expected) in [
            ("echo 'hush!'", "not base64"),
            ("true", "not base64"),
            ("cat; exit 1", "(exit status: 1)"),
            ("echo denied >&2; exit 3", "(exit status: 3): denied"),
            ("head -c 70000 /dev/zero", "more than 65536 bytes"),
        ] {
            let error = service(script, soon()).wrap("k", b"hush!").await.expect_err(script);
            assert!(error.detail.contains(expected), "{script}: {}", error.detail);
            let sealed = BASE64_STANDARD.encode(b"hush!");
            assert!(!error.detail.contains("hush!") && !error.detail.contains(&sealed), "{error}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended() {
        let service = service("cat; sleep 600", Duration::from_millis(200));
        let slow = service.unwrap("k", b"x").await.expect_err("slow");
        assert!(slow.detail.contains("/bin/sh did not end within"), "{slow}");
    }

    #[tokio::test]
    async fn a_failure_answers_the_next_questions() {
        let dir = tempfile::tempdir().expect("a directory");
        let count = dir.path().join("count");
        let script = format!("echo >> {}; echo away >&2; exit 1", count.display());
        let service = service(&script, soon());
        let asked = || std::fs::read_to_string(&count).expect("it was run").lines().count();
        for _ in 0..3 {
            let away = service.wrap("k", b"x").await.expect_err("away");
            assert!(away.detail.ends_with("away"), "{away}");
        }
        assert_eq!(asked(), 1);
        tokio::time::pause();
        tokio::time::advance(BREATHER).await;
        tokio::time::resume();
        service.unwrap("k", b"x").await.expect_err("still away");
        assert_eq!(asked(), 2);
    }
}
