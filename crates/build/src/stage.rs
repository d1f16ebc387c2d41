//! A stage while it is built: its configuration and variables, and what each instruction does.

use std::sync::Arc;

use crate::{
    Dockerfile, DockerfileError,
    context::MAX_PATH,
    dockerfile::{Command, CopyText, FromText, Kind, platform_arg},
    effect::{Copy, CopyFrom, Effect, Run},
    expand::{expand, expand_text},
    tally::Tally,
};

/// What runs a command that names no shell.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Where programs are looked for in an image that does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that need no `ARG` to reach a command.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What an image says about running it, as far as it counts here, and about building on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildConfig {
    /// `ENV`, in order.
    pub env: Vec<(String, String)>,
    /// Who its processes are when a sandbox runs; `None` = root.
    pub user: Option<String>,
    /// Who runs the commands of a build; `None` = root. A stock image's user does not: on such an
    /// image packages are to be installed.
    pub runs_as: Option<String>,
    /// `WORKDIR`.
    pub working_dir: Option<String>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `SHELL`; empty = `/bin/sh -c`.
    pub shell: Vec<String>,
}

/// A stage while its instructions are applied.
#[derive(Debug, Clone)]
pub struct StageState {
    file: Arc<Dockerfile>,
    stage: usize,
    /// What it came to so far.
    pub config: BuildConfig,
    args: Vec<(String, Option<String>)>,
}

// === impl StageState ===

impl StageState {
    /// Begins a stage on its base.
    ///
    /// # Errors
    /// Fails when the base says more than a stage may.
    pub fn new(
        file: Arc<Dockerfile>,
        stage: usize,
        base: BuildConfig,
    ) -> Result<Self, DockerfileError> {
        let line = file.stages.get(stage).map_or(1, |stage| stage.line);
        let state = Self { file, stage, config: base, args: Vec::new() };
        state.check().map_err(|said| DockerfileError::new(line, said))?;
        Ok(state)
    }

    /// Applies an instruction and says what it does to the files. May take seconds when variables
    /// stand for much.
    ///
    /// # Errors
    /// Fails when it cannot mean anything here, or means too much.
    pub fn apply(&mut self, at: usize) -> Result<Effect, DockerfileError> {
        let file = Arc::clone(&self.file);
        let instruction = file.stages.get(self.stage).and_then(|stage| stage.instruction(at));
        let Some(instruction) = instruction else { return Ok(Effect::None) };
        let effect = self.effect(&instruction.kind);
        let effect = effect.and_then(|effect| self.check().map(|()| effect));
        effect.map_err(|said| DockerfileError::new(instruction.line, said))
    }

    /// Refuses to hold more than a stage may.
    fn check(&self) -> Result<(), String> {
        let BuildConfig { env, user, runs_as, working_dir, entrypoint, cmd, shell } = &self.config;
        let mut tally = Tally::default();
        for (name, value) in env {
            tally.variable(name, Some(value))?;
        }
        for (name, value) in &self.args {
            tally.variable(name, value.as_deref())?;
        }
        tally.texts([user, runs_as, working_dir].into_iter().flatten())?;
        tally.texts([entrypoint, cmd, shell].into_iter().flatten())
    }

    fn effect(&mut self, kind: &Kind) -> Result<Effect, String> {
        match kind {
            Kind::Arg(args) => self.declare(args)?,
            Kind::Env(pairs) => {
                // All of them are read before any of them counts.
                let mut tally = Tally::default();
                let mut read = Vec::new();
                for (name, value) in pairs {
                    let value = self.expand(value)?;
                    tally.variable(name, Some(&value))?;
                    read.push((name.clone(), value));
                }
                for (name, value) in read {
                    set(&mut self.config.env, name, value);
                }
            }
            Kind::Run(command) => return Ok(Effect::Run(self.run(command))),
            Kind::Copy(copy) => return self.copy(copy).map(Effect::Copy),
            Kind::Workdir(path) => {
                let path = join(self.dir(), &self.expand(path)?);
                self.config.working_dir = Some(path.clone());
                return Ok(if path == "/" { Effect::None } else { Effect::MakeDir { path } });
            }
            Kind::User(user) => {
                let user = self.expand(user)?;
                if user.is_empty() {
                    return Err("the user is empty".to_owned());
                }
                self.config.user = Some(user.clone());
                self.config.runs_as = Some(user);
            }
            Kind::Cmd(command) => self.config.cmd = self.argv(command),
            Kind::Entrypoint(command) => {
                self.config.entrypoint = self.argv(command);
                // A command of the base was meant for the entrypoint of the base.
                self.config.cmd.clear();
            }
            Kind::Shell(words) => self.config.shell.clone_from(words),
            Kind::NoEffect => {}
        }
        Ok(Effect::None)
    }

    fn declare(&mut self, args: &[(String, Option<String>)]) -> Result<(), String> {
        let mut tally = Tally::default();
        for (name, default) in args {
            let value = match self.file.given.get(name) {
                Some(given) => Some(given.clone()),
                None => match default {
                    Some(default) => Some(self.expand(default)?),
                    None => match self.file.globals.get(name) {
                        Some(global) => global.clone(),
                        None => platform_arg(name),
                    },
                },
            };
            tally.variable(name, value.as_deref())?;
            match self.args.iter_mut().find(|(known, _)| known == name) {
                Some(known) => known.1 = value,
                None => self.args.push((name.clone(), value)),
            }
        }
        Ok(())
    }

    fn value(&self, name: &str) -> Option<String> {
        let env = self.config.env.iter().find(|(known, _)| known == name);
        let env = env.map(|(_, value)| value.clone());
        env.or_else(|| {
            let arg = self.args.iter().find(|(known, _)| known == name);
            match arg {
                Some((_, value)) => value.clone(),
                // What the daemon gives to every process counts for `PATH=/opt/bin:$PATH`, too.
                None => (name == "PATH").then(|| PATH.to_owned()),
            }
        })
    }

    fn expand(&self, text: &str) -> Result<String, String> {
        expand(text, self.file.escape, &|name| self.value(name))
    }

    fn dir(&self) -> &str {
        self.config.working_dir.as_deref().unwrap_or("/")
    }

    fn run(&self, command: &Command) -> Run {
        let proxies = PROXIES.iter().filter_map(|name| {
            let given = self.file.given.get(*name)?;
            Some(((*name).to_owned(), given.clone()))
        });
        let args =
            self.args.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        let mut env = Vec::new();
        for (name, value) in proxies.chain(args).chain(self.config.env.iter().cloned()) {
            set(&mut env, name, value);
        }
        Run {
            argv: self.argv(command),
            env,
            user: self.config.runs_as.clone(),
            dir: self.dir().to_owned(),
        }
    }

    fn argv(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let shell: Vec<String> = if self.config.shell.is_empty() {
                    SHELL.map(str::to_owned).to_vec()
                } else {
                    self.config.shell.clone()
                };
                shell.into_iter().chain([text.clone()]).collect()
            }
        }
    }

    fn copy(&self, copy: &CopyText) -> Result<Copy, String> {
        let mut tally = Tally::default();
        let mut sources = Vec::new();
        for source in &copy.sources {
            let source = self.path(source, copy.is_json)?;
            if source.is_empty() {
                return Err("what is copied has an empty name; a variable without value?".into());
            }
            tally.text(&source)?;
            sources.push(source);
        }
        let mut inline = Vec::new();
        for (document, expands) in &copy.inline {
            let mut document = document.clone();
            if *expands {
                let value = |name: &str| self.value(name);
                document.text = expand_text(&document.text, self.file.escape, &value)?;
            }
            tally.text(&document.text)?;
            inline.push(document);
        }
        let dest = self.path(&copy.dest, copy.is_json)?;
        let is_dir = dest.is_empty() || dest.ends_with('/') || dest == "." || dest.ends_with("/.");
        let mut dest = join(self.dir(), &dest);
        if is_dir && !dest.ends_with('/') {
            dest.push('/');
        }
        if sources.len() + inline.len() > 1 && !dest.ends_with('/') {
            return Err(format!("several files are copied to {dest}: end it with a slash"));
        }
        let from = match &copy.from {
            None => CopyFrom::Context,
            Some(FromText::Stage(at)) => CopyFrom::Stage(*at),
            Some(FromText::Image(name)) => CopyFrom::Image(name.clone()),
        };
        let chown = copy.chown.as_deref().map(|text| self.expand(text)).transpose()?;
        let chmod = match &copy.chmod {
            None => None,
            Some(text) => Some(mode(&self.expand(text)?)?),
        };
        let chown = chown.filter(|user| !user.is_empty());
        Ok(Copy { from, sources, inline, dest, chown, chmod, adds: copy.adds })
    }

    /// In a JSON list quotes are JSON's, and only variables are left to put in.
    fn path(&self, text: &str, is_json: bool) -> Result<String, String> {
        let path = if is_json {
            expand_text(text, self.file.escape, &|name| self.value(name))?
        } else {
            self.expand(text)?
        };
        if path.len() > MAX_PATH {
            return Err(format!(
                "what is copied, or where to, has {} bytes; a path has {MAX_PATH} at most",
                path.len()
            ));
        }
        Ok(path)
    }
}

fn set(pairs: &mut Vec<(String, String)>, name: String, value: String) {
    match pairs.iter_mut().find(|(known, _)| *known == name) {
        Some(known) => known.1 = value,
        None => pairs.push((name, value)),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("--chmod={text}: give the permissions in octal, as in 0755"))
}

/// Joins a path to a directory, both from the root, and takes `.` and `..` out.
fn join(dir: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{dir}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests;
