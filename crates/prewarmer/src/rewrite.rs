//! The command line of the sentry, before and after. Pure.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    str::FromStr,
};

const TOTAL_MEMORY: &str = "--total-memory";
const TOTAL_HOST_MEMORY: &str = "--total-host-memory";
const CPU_NUM: &str = "--cpu-num";

/// What the sandbox is to see: the text `<memory in bytes> <CPUs>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    memory_bytes: u64,
    cpus: u32,
}

/// Returns the value of `--root`, in either spelling.
pub(crate) fn root(boot: &[OsString]) -> Option<&OsStr> {
    let mut words = boot.iter();
    while let Some(word) = words.next() {
        if word == "--root" {
            return words.next().map(OsString::as_os_str);
        }
        if let Some(path) = word.as_bytes().strip_prefix(b"--root=") {
            return Some(OsStr::from_bytes(path));
        }
    }
    None
}

/// Puts the shape into a command line.
///
/// The id is the last word and flags must precede it, so the number of CPUs goes where the total
/// memory stands.
pub(crate) fn apply(boot: Vec<OsString>, shape: Shape) -> Vec<OsString> {
    let mut rewritten = Vec::with_capacity(boot.len() + 2);
    let mut words = boot.into_iter();
    while let Some(word) = words.next() {
        if word == TOTAL_MEMORY {
            rewritten.extend([CPU_NUM.into(), shape.cpus.to_string().into()]);
        }
        if word == TOTAL_MEMORY || word == TOTAL_HOST_MEMORY {
            // The second one sizes every tmpfs inside.
            words.next();
            rewritten.extend([word, shape.memory_bytes.to_string().into()]);
        } else if word == CPU_NUM {
            words.next();
        } else {
            rewritten.push(word);
        }
    }
    rewritten
}

// === impl Shape ===

impl FromStr for Shape {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.split_ascii_whitespace();
        let memory = numbers.next().and_then(|word| word.parse().ok());
        let cpus = numbers.next().and_then(|word| word.parse().ok());
        match (memory, cpus, numbers.next()) {
            (Some(memory_bytes), Some(cpus), None) if memory_bytes > 0 && cpus > 0 => {
                Ok(Self { memory_bytes, cpus })
            }
            _ => Err("a shape is two positive numbers: bytes of memory, and CPUs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_shape_is_two_positive_numbers() {
        assert_eq!("268435456 2\n".parse(), Ok(Shape { memory_bytes: 268_435_456, cpus: 2 }));
        for bad in ["", "1", "0 1", "1 0", "1 2 3", "-1 1", "a b"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_root_is_found_in_both_spellings() {
        assert_eq!(root(&words("--root=/a b0 id")), Some(OsStr::new("/a")));
        assert_eq!(root(&words("--x --root /b boot id")), Some(OsStr::new("/b")));
        assert_eq!(root(&words("--rootless=false boot id")), None);
    }

    #[test]
    fn the_shape_replaces_the_hosts_and_stays_before_the_id() {
        let shape = Shape { memory_bytes: 64, cpus: 2 };
        let cases = [
            (
                "--root=/r boot --total-host-memory 999 --total-memory 999 id",
                "--root=/r boot --total-host-memory 64 --cpu-num 2 --total-memory 64 id",
            ),
            (
                "boot --cpu-num 8 --total-memory 999 --x id",
                "boot --cpu-num 2 --total-memory 64 --x id",
            ),
            ("umount --sync-fd=3 id", "umount --sync-fd=3 id"),
        ];
        for (before, after) in cases {
            assert_eq!(apply(words(before), shape), words(after), "{before}");
        }
    }
}
