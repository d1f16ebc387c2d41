//! The few commands that a simulated sandbox knows, as steps. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tarn_daemon_api::OutputStream;

use super::file::FileTree;

/// Something that a command does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Act {
    /// It writes a line.
    Print(OutputStream, String),
    /// It does nothing for a while.
    Sleep(Duration),
    /// It ends.
    Exit(i32),
}

/// What a command finds around it.
pub(super) struct Surroundings<'a> {
    /// The sandbox's files.
    pub(super) files: &'a FileTree,
    /// Its environment.
    pub(super) env: &'a BTreeMap<String, String>,
    /// The sandbox's host name.
    pub(super) hostname: &'a str,
    /// Where it starts.
    pub(super) working_dir: &'a str,
}

/// Returns what a command does, the last act being its exit; `None` when there is no such command.
pub(super) fn acts(command: &str, args: &[String], around: &Surroundings<'_>) -> Option<Vec<Act>> {
    let name = command.strip_prefix("/usr").unwrap_or(command);
    let name = name.strip_prefix("/bin/").unwrap_or(name);
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut acts = match (name, words.as_slice()) {
        ("true", _) => vec![],
        ("false", _) => vec![Act::Exit(1)],
        ("echo", words) => vec![Act::Print(OutputStream::Stdout, words.join(" "))],
        ("cat", paths) => cat(paths, around),
        ("sleep", words) => sleep(words),
        ("hostname", []) => vec![Act::Print(OutputStream::Stdout, around.hostname.to_owned())],
        ("pwd", []) => vec![Act::Print(OutputStream::Stdout, around.working_dir.to_owned())],
        ("env", []) => around
            .env
            .iter()
            .map(|(name, value)| Act::Print(OutputStream::Stdout, format!("{name}={value}")))
            .collect(),
        ("sh" | "bash", ["-c", script]) => shell(script, around),
        _ => return None,
    };
    if let Some(end) = acts.iter().position(|act| matches!(act, Act::Exit(_))) {
        acts.truncate(end + 1);
    } else {
        acts.push(Act::Exit(0));
    }
    Some(acts)
}

fn cat(paths: &[&str], around: &Surroundings<'_>) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut code = 0;
    for path in paths {
        match around.files.resolve(path).and_then(|path| around.files.read(&path)) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let lines = text.lines();
                acts.extend(lines.map(|line| Act::Print(OutputStream::Stdout, line.to_owned())));
            }
            Err(error) => {
                code = 1;
                let line = format!("cat: {path}: {}", error.as_errno());
                acts.push(Act::Print(OutputStream::Stderr, line));
            }
        }
    }
    acts.push(Act::Exit(code));
    acts
}

fn sleep(words: &[&str]) -> Vec<Act> {
    let secs = match words {
        ["infinity"] => Some(Duration::MAX),
        [secs] => secs.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok()),
        _ => None,
    };
    match secs {
        Some(secs) => vec![Act::Sleep(secs)],
        None => vec![
            Act::Print(OutputStream::Stderr, "sleep: invalid time interval".to_owned()),
            Act::Exit(1),
        ],
    }
}

/// Runs commands separated by `;` or newlines; words are split at white space, and a last word
/// `>&2` sends a command's output to standard error. There is nothing more to this shell.
fn shell(script: &str, around: &Surroundings<'_>) -> Vec<Act> {
    let mut all = Vec::new();
    let mut last = 0;
    for line in script.split([';', '\n']) {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let to_stderr = words.last() == Some(&">&2");
        if to_stderr {
            words.pop();
        }
        let Some((command, args)) = words.split_first() else { continue };
        if *command == "exit" {
            let code = args.first().and_then(|code| code.parse().ok()).unwrap_or(last);
            all.push(Act::Exit(code & 0xff));
            return all;
        }
        let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
        let Some(acts) = acts(command, &args, around) else {
            let line = format!("sh: 1: {command}: not found");
            all.push(Act::Print(OutputStream::Stderr, line));
            last = 127;
            continue;
        };
        for act in acts {
            match act {
                Act::Exit(code) => last = code,
                Act::Print(_, line) if to_stderr => {
                    all.push(Act::Print(OutputStream::Stderr, line));
                }
                act @ (Act::Print(..) | Act::Sleep(_)) => all.push(act),
            }
        }
    }
    all.push(Act::Exit(last));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str, args: &[&str]) -> Option<Vec<Act>> {
        let mut files = FileTree::new("/workspace");
        files.write("/tmp/a", "one\ntwo".into(), 0).expect("a plain file");
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        let around = Surroundings {
            files: &files,
            env: &env,
            hostname: "tl-sbx",
            working_dir: "/workspace",
        };
        let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
        acts(command, &args, &around)
    }

    fn out(line: &str) -> Act {
        Act::Print(OutputStream::Stdout, line.to_owned())
    }

    fn err(line: &str) -> Act {
        Act::Print(OutputStream::Stderr, line.to_owned())
    }

    #[test]
    fn the_commands_that_there_are() {
        type Row<'a> = (&'a str, &'a [&'a str], Option<Vec<Act>>);
        let table: Vec<Row<'_>> = vec![
            ("true", &[], Some(vec![Act::Exit(0)])),
            ("/usr/bin/false", &[], Some(vec![Act::Exit(1)])),
            ("echo", &["a", "b"], Some(vec![out("a b"), Act::Exit(0)])),
            ("cat", &["/tmp/a"], Some(vec![out("one"), out("two"), Act::Exit(0)])),
            ("cat", &["/no"], Some(vec![err("cat: /no: No such file or directory"), Act::Exit(1)])),
            ("sleep", &["0.5"], Some(vec![Act::Sleep(Duration::from_millis(500)), Act::Exit(0)])),
            ("sleep", &["x"], Some(vec![err("sleep: invalid time interval"), Act::Exit(1)])),
            ("hostname", &[], Some(vec![out("tl-sbx"), Act::Exit(0)])),
            ("env", &[], Some(vec![out("A=1"), Act::Exit(0)])),
            ("sh", &["-c", "exit 7"], Some(vec![Act::Exit(7)])),
            ("sh", &["-c", "false; exit"], Some(vec![Act::Exit(1)])),
            (
                "/bin/bash",
                &["-c", "echo a; echo b >&2; exit 256; echo never"],
                Some(vec![out("a"), err("b"), Act::Exit(0)]),
            ),
            ("sh", &["-c", "frob"], Some(vec![err("sh: 1: frob: not found"), Act::Exit(127)])),
            ("frob", &[], None),
        ];
        for (command, args, expected) in table {
            assert_eq!(run(command, args), expected, "{command} {args:?}");
        }
    }
}
