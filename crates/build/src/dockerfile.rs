//! From instructions to stages. What depends on variables of a stage stays text until the stage is
//! built: its base's environment counts.

use std::collections::BTreeMap;

use crate::{
    DockerfileError,
    effect::Inline,
    expand::{expand, split_words, word_end},
    lex::{Document, Raw, begins_document, lex},
    tally::Tally,
};

/// The most stages of a Dockerfile, and the most instructions.
const MAX_STAGES: usize = 64;
const MAX_INSTRUCTIONS: usize = 1000;

/// The most that one `COPY` or `ADD` names.
const MAX_SOURCES: usize = 1024;

/// The one platform that images are built for.
const PLATFORM: &str = "linux/amd64";

/// A Dockerfile that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// Its stages; the last one is the image.
    pub stages: Vec<Stage>,
    /// Build arguments that were given and that no `ARG` takes.
    pub unused_args: Vec<String>,
    pub(crate) globals: BTreeMap<String, Option<String>>,
    pub(crate) given: BTreeMap<String, String>,
    pub(crate) escape: char,
}

/// What becomes an image, or something that another stage copies from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The line of its `FROM`.
    pub line: usize,
    /// Its name, in small letters, if it has one.
    pub name: Option<String>,
    /// What it begins with.
    pub base: Base,
    pub(crate) instructions: Vec<Instruction>,
}

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// An image of that name.
    Image(String),
    /// What an earlier stage became.
    Stage(usize),
}

/// An instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) line: usize,
    /// As it stands, in one line, for the log.
    pub(crate) text: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Run(Command),
    Copy(CopyText),
    Workdir(String),
    User(String),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    /// It builds, and nothing comes of it when a sandbox runs (spec 01 §10).
    NoEffect,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

/// A `COPY` or `ADD` whose variables are not put in yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopyText {
    pub(crate) from: Option<FromText>,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    pub(crate) sources: Vec<String>,
    /// What stands in the Dockerfile itself; the flag says whether variables are put in.
    pub(crate) inline: Vec<(Inline, bool)>,
    pub(crate) dest: String,
    /// `ADD` unpacks archives; they are refused when they are met.
    pub(crate) adds: bool,
    /// The quotes of a JSON list are gone already.
    pub(crate) is_json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromText {
    Stage(usize),
    Image(String),
}

// === impl Dockerfile ===

impl Dockerfile {
    /// Reads a Dockerfile for a build with these arguments.
    ///
    /// # Errors
    /// Names the first line that cannot be understood or asks for what is not offered.
    pub fn parse(text: &str, args: &BTreeMap<String, String>) -> Result<Self, DockerfileError> {
        let lexed = lex(text)?;
        if lexed.instructions.len() > MAX_INSTRUCTIONS {
            let said = format!("it has more than {MAX_INSTRUCTIONS} instructions");
            return Err(DockerfileError::new(lexed.instructions[MAX_INSTRUCTIONS].line, said));
        }
        let mut file = Self {
            stages: Vec::new(),
            unused_args: Vec::new(),
            globals: BTreeMap::new(),
            given: args.clone(),
            escape: lexed.escape,
        };
        for raw in &lexed.instructions {
            file.take(raw)?;
        }
        if file.stages.is_empty() {
            return Err(DockerfileError::new(1, "it has no FROM instruction"));
        }
        let takes = |instruction: &Instruction, name: &String| match &instruction.kind {
            Kind::Arg(args) => args.iter().any(|(arg, _)| arg == name),
            Kind::Env(_)
            | Kind::Run(_)
            | Kind::Copy(_)
            | Kind::Workdir(_)
            | Kind::User(_)
            | Kind::Cmd(_)
            | Kind::Entrypoint(_)
            | Kind::Shell(_)
            | Kind::NoEffect => false,
        };
        let declared = |name: &String| {
            let mut all = file.stages.iter().flat_map(|stage| &stage.instructions);
            file.globals.contains_key(name) || all.any(|instruction| takes(instruction, name))
        };
        file.unused_args = args.keys().filter(|name| !declared(name)).cloned().collect();
        Ok(file)
    }

    /// Makes what a Dockerfile says that is an image as it is.
    #[must_use]
    pub fn of_image(name: &str) -> Self {
        let base = Base::Image(name.to_owned());
        Self {
            stages: vec![Stage { line: 1, name: None, base, instructions: Vec::new() }],
            unused_args: Vec::new(),
            globals: BTreeMap::new(),
            given: BTreeMap::new(),
            escape: '\\',
        }
    }

    /// Returns the stages that the image needs, each after those that it needs itself.
    #[must_use]
    pub fn needed(&self) -> Vec<usize> {
        let mut needed = vec![false; self.stages.len()];
        if let Some(last) = needed.last_mut() {
            *last = true;
        }
        // What a stage needs stands above it.
        for at in (0..self.stages.len()).rev() {
            if needed[at] {
                for other in self.stages[at].uses() {
                    needed[other] = true;
                }
            }
        }
        (0..self.stages.len()).filter(|at| needed[*at]).collect()
    }

    fn take(&mut self, raw: &Raw) -> Result<(), DockerfileError> {
        let bad = |said: String| DockerfileError::new(raw.line, said);
        if raw.rest.is_empty() {
            return Err(bad(format!("{} says nothing; what it is to do follows it", raw.name)));
        }
        match (raw.name.as_str(), self.stages.is_empty()) {
            ("FROM", _) => {
                if self.stages.len() == MAX_STAGES {
                    return Err(bad(format!("it has more than {MAX_STAGES} stages")));
                }
                let stage = self.stage(raw).map_err(bad)?;
                self.stages.push(stage);
                Ok(())
            }
            ("ARG", true) => self.global(raw).map_err(bad),
            (name, true) => {
                Err(bad(format!("{name} stands before FROM; only ARG and comments may")))
            }
            (_, false) => {
                let kind = self.kind(raw).map_err(bad)?;
                let text = format!("{} {}", raw.name, raw.rest);
                if let Some(stage) = self.stages.last_mut() {
                    stage.instructions.push(Instruction { line: raw.line, text, kind });
                }
                Ok(())
            }
        }
    }

    fn global(&mut self, raw: &Raw) -> Result<(), String> {
        let mut tally = Tally::default();
        for (name, value) in &self.globals {
            tally.variable(name, value.as_deref())?;
        }
        for (name, default) in arg_pairs(raw, self.escape)? {
            let default = match default {
                Some(text) => Some(expand(&text, self.escape, &|name| self.global_value(name))?),
                None => None,
            };
            let value = self.given.get(&name).cloned().or(default);
            tally.variable(&name, value.as_deref())?;
            self.globals.insert(name, value);
        }
        Ok(())
    }

    pub(crate) fn global_value(&self, name: &str) -> Option<String> {
        match self.globals.get(name) {
            Some(value) => value.clone(),
            None => platform_arg(name),
        }
    }

    fn stage(&self, raw: &Raw) -> Result<Stage, String> {
        let (flags, rest) = flags(&raw.rest, self.escape);
        for (name, value) in flags {
            let value =
                expand(&value.unwrap_or_default(), self.escape, &|name| self.global_value(name))?;
            match name.as_str() {
                "platform" if value.is_empty() || value.starts_with(PLATFORM) => {}
                "platform" => {
                    return Err(format!("platform {value} is not built here; {PLATFORM} is"));
                }
                _ => return Err(format!("FROM has no option --{name}")),
            }
        }
        let words = split_words(rest, self.escape);
        let (image, name) = match words.as_slice() {
            [image] => (image, None),
            [image, r#as, name] if r#as.eq_ignore_ascii_case("as") => {
                (image, Some(name.to_ascii_lowercase()))
            }
            _ => return Err("FROM is followed by an image, and perhaps AS and a name".to_owned()),
        };
        if let Some(name) = &name {
            check_stage_name(name)?;
            if self.find(name).is_some() {
                return Err(format!("two stages are named `{name}`"));
            }
        }
        let image = expand(image, self.escape, &|name| self.global_value(name))?;
        if image.is_empty() {
            return Err(
                "the name of the image is empty; an ARG before FROM without a value?".to_owned()
            );
        }
        let base = match self.find(&image.to_ascii_lowercase()) {
            Some(at) => Base::Stage(at),
            None if image == "scratch" => {
                return Err("`FROM scratch` is not offered: begin with an image, such as \
                     `tensorlake/debian-minimal`, or with another stage"
                    .to_owned());
            }
            None => Base::Image(image),
        };
        Ok(Stage { line: raw.line, name, base, instructions: Vec::new() })
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|stage| stage.name.as_deref() == Some(name))
    }

    fn kind(&self, raw: &Raw) -> Result<Kind, String> {
        let escape = self.escape;
        match raw.name.as_str() {
            "ARG" => Ok(Kind::Arg(arg_pairs(raw, escape)?)),
            "ENV" => Ok(Kind::Env(env_pairs(&raw.rest, escape)?)),
            "RUN" => run(raw, escape).map(Kind::Run),
            "COPY" | "ADD" => self.copy(raw).map(Kind::Copy),
            "WORKDIR" => Ok(Kind::Workdir(raw.rest.clone())),
            "USER" => Ok(Kind::User(raw.rest.clone())),
            "CMD" => Ok(Kind::Cmd(command(&raw.rest))),
            "ENTRYPOINT" => Ok(Kind::Entrypoint(command(&raw.rest))),
            "SHELL" => match json_list(&raw.rest) {
                Some(words) if !words.is_empty() => Ok(Kind::Shell(words)),
                _ => Err("SHELL is followed by a JSON list, as in [\"/bin/bash\", \"-c\"]".into()),
            },
            "EXPOSE" | "LABEL" | "MAINTAINER" | "HEALTHCHECK" | "STOPSIGNAL" | "VOLUME"
            | "ONBUILD" => Ok(Kind::NoEffect),
            other => Err(format!("{other} is no instruction")),
        }
    }

    fn copy(&self, raw: &Raw) -> Result<CopyText, String> {
        let name = &raw.name;
        let (flags, rest) = flags(&raw.rest, self.escape);
        let mut copy = CopyText {
            from: None,
            chown: None,
            chmod: None,
            sources: Vec::new(),
            inline: Vec::new(),
            dest: String::new(),
            adds: name == "ADD",
            is_json: false,
        };
        for (flag, value) in flags {
            match (flag.as_str(), value) {
                ("from", Some(value)) if !copy.adds => copy.from = Some(self.copy_from(&value)?),
                ("chown", Some(value)) => copy.chown = Some(value),
                ("chmod", Some(value)) => copy.chmod = Some(value),
                // Layers are clones here; whether one is linked changes nothing that can be seen.
                ("link", None) => {}
                ("link", Some(value)) if value == "true" || value == "false" => {}
                _ => return Err(format!("{name} has no option --{flag} here")),
            }
        }
        let mut words = match json_list(rest) {
            Some(words) => {
                copy.is_json = true;
                words
            }
            None => split_words(rest, self.escape),
        };
        copy.dest = words.pop().unwrap_or_default();
        if words.len() > MAX_SOURCES {
            return Err(format!(
                "{name} names {} sources; at most {MAX_SOURCES} are copied at once",
                words.len()
            ));
        }
        let mut documents = raw.documents.iter();
        for word in words {
            if !copy.is_json && begins_document(&word) {
                if let Some(Document { word, text, expands, .. }) = documents.next() {
                    let inline = Inline { name: word.clone(), text: text.clone() };
                    copy.inline.push((inline, *expands));
                }
            } else if copy.adds && is_url(&word) {
                return Err(format!(
                    "ADD of {word}: URLs are not fetched; RUN a download, with the network policy \
                     of the sandbox"
                ));
            } else {
                copy.sources.push(word);
            }
        }
        if copy.sources.is_empty() && copy.inline.is_empty() {
            return Err(format!("{name} is followed by what is copied and where to"));
        }
        Ok(copy)
    }

    fn copy_from(&self, value: &str) -> Result<FromText, String> {
        let last = self.stages.len().saturating_sub(1);
        if let Ok(number) = value.parse::<usize>() {
            if number >= last {
                return Err(format!("--from={number}: there is no stage {number} above"));
            }
            return Ok(FromText::Stage(number));
        }
        match self.find(&value.to_ascii_lowercase()) {
            Some(at) if at == last => Err(format!("--from={value} is this stage itself")),
            Some(at) => Ok(FromText::Stage(at)),
            None if value.is_empty() => Err("--from names nothing".to_owned()),
            None if value.contains('$') => {
                Err(format!("--from={value}: no variables are put in here"))
            }
            None => Ok(FromText::Image(value.to_owned())),
        }
    }
}

// === impl Stage ===

impl Stage {
    /// Returns how many instructions it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Says whether it has no instruction.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// Returns an instruction as it stands, for a log.
    #[must_use]
    pub fn text(&self, at: usize) -> &str {
        self.instructions.get(at).map_or("", |instruction| &instruction.text)
    }

    pub(crate) fn instruction(&self, at: usize) -> Option<&Instruction> {
        self.instructions.get(at)
    }

    /// Returns the images that are only copied from.
    pub fn copied_images(&self) -> impl Iterator<Item = &str> {
        self.copies().filter_map(|from| match from {
            FromText::Image(name) => Some(name.as_str()),
            FromText::Stage(_) => None,
        })
    }

    fn uses(&self) -> Vec<usize> {
        let base = match &self.base {
            Base::Stage(at) => Some(*at),
            Base::Image(_) => None,
        };
        let copied = self.copies().filter_map(|from| match from {
            FromText::Stage(at) => Some(*at),
            FromText::Image(_) => None,
        });
        base.into_iter().chain(copied).collect()
    }

    fn copies(&self) -> impl Iterator<Item = &FromText> {
        self.instructions.iter().filter_map(|instruction| match &instruction.kind {
            Kind::Copy(copy) => copy.from.as_ref(),
            Kind::Arg(_)
            | Kind::Env(_)
            | Kind::Run(_)
            | Kind::Workdir(_)
            | Kind::User(_)
            | Kind::Cmd(_)
            | Kind::Entrypoint(_)
            | Kind::Shell(_)
            | Kind::NoEffect => None,
        })
    }
}

/// Returns an argument that every build has.
pub(crate) fn platform_arg(name: &str) -> Option<String> {
    let value = match name {
        "TARGETPLATFORM" | "BUILDPLATFORM" => PLATFORM,
        "TARGETOS" | "BUILDOS" => "linux",
        "TARGETARCH" | "BUILDARCH" => "amd64",
        "TARGETVARIANT" | "BUILDVARIANT" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

fn check_stage_name(name: &str) -> Result<(), String> {
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
    if good {
        return Ok(());
    }
    Err(format!("`{name}` cannot name a stage: a letter, then letters, digits, `-`, `_`, `.`"))
}

/// Takes the options off the front.
fn flags(rest: &str, escape: char) -> (Vec<(String, Option<String>)>, &str) {
    let mut flags = Vec::new();
    let mut rest = rest.trim_start();
    while rest.starts_with("--") {
        let (flag, after) = rest.split_at(word_end(rest, escape));
        let flag = flag.trim_start_matches("--");
        flags.push(match flag.split_once('=') {
            Some((name, value)) => (name.to_ascii_lowercase(), Some(value.to_owned())),
            None => (flag.to_ascii_lowercase(), None),
        });
        rest = after.trim_start();
    }
    (flags, rest)
}

fn arg_pairs(raw: &Raw, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    let words = split_words(&raw.rest, escape);
    words
        .into_iter()
        .map(|word| {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
                None => (word, None),
            };
            check_variable(&name)?;
            Ok((name, default))
        })
        .collect()
}

/// Reads `ENV a=b c=d`, or the old `ENV a b c`, whose value is all that follows.
fn env_pairs(rest: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let words = split_words(rest, escape);
    let first = words.first().map(String::as_str).unwrap_or_default();
    if !first.contains('=') {
        check_variable(first)?;
        let value = rest[first.len()..].trim();
        if value.is_empty() {
            return Err(format!("ENV {first} has no value; write `ENV {first}=value`"));
        }
        return Ok(vec![(first.to_owned(), value.to_owned())]);
    }
    let pairs = words.iter().map(|word| match word.split_once('=') {
        Some((name, value)) => {
            check_variable(name)?;
            Ok((name.to_owned(), value.to_owned()))
        }
        None => Err(format!("ENV: `{word}` is no `name=value`")),
    });
    pairs.collect()
}

fn check_variable(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['"', '\'', '$', '\\', '\0']) {
        return Err(format!("`{name}` cannot name a variable"));
    }
    Ok(())
}

fn run(raw: &Raw, escape: char) -> Result<Command, String> {
    let (flags, rest) = flags(&raw.rest, escape);
    for (name, value) in flags {
        match (name.as_str(), value.as_deref()) {
            ("network", Some("default")) | ("security", Some("sandbox")) => {}
            ("mount", _) => {
                return Err(
                    "RUN --mount is not offered: COPY what the command needs, and remove in the \
                     same RUN what is not to stay"
                        .to_owned(),
                );
            }
            ("network", value) => {
                let value = value.unwrap_or_default();
                return Err(format!("RUN --network={value} is not offered; leave it out"));
            }
            _ => return Err(format!("RUN has no option --{name} here")),
        }
    }
    if rest.is_empty() {
        return Err("RUN is followed by a command".to_owned());
    }
    let documents = &raw.documents;
    match (documents.as_slice(), json_list(rest)) {
        ([], Some(words)) if words.is_empty() => Err("RUN [] is no command".to_owned()),
        ([], Some(words)) => Ok(Command::Exec(words)),
        ([], None) => Ok(Command::Shell(rest.to_owned())),
        ([document], _) if begins_document(rest) => Ok(Command::Shell(script(document))),
        (documents, _) => {
            let mut text = format!("{rest}\n");
            for document in documents {
                text.push_str(&document.verbatim);
            }
            Ok(Command::Shell(text))
        }
    }
}

/// A document that is the whole command: the shell runs it, or the interpreter that it names.
fn script(document: &Document) -> String {
    let text = &document.text;
    if !text.starts_with("#!") {
        return text.clone();
    }
    let mut word = "tarn-script".to_owned();
    while text.lines().any(|line| line == word) {
        word.push('-');
    }
    format!(
        "f=$(mktemp) && cat >\"$f\" <<'{word}' && chmod +x \"$f\" && \"$f\"; s=$?; rm -f \"$f\"; \
         exit $s\n{text}{word}\n"
    )
}

fn command(rest: &str) -> Command {
    match json_list(rest) {
        Some(words) => Command::Exec(words),
        None => Command::Shell(rest.to_owned()),
    }
}

/// Reads a JSON list of strings; anything else is shell's.
fn json_list(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

fn is_url(text: &str) -> bool {
    ["http://", "https://", "git://", "git@"].iter().any(|scheme| text.starts_with(scheme))
}

#[cfg(test)]
mod tests;
