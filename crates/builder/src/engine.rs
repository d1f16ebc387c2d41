//! Walks through the stages of a Dockerfile.

use std::{collections::BTreeMap, sync::Arc};

use tarn_build::{
    Base, BuildConfig, CacheKey, Copy, CopyFrom, Dockerfile, DockerfileError, Effect, StageState,
};
use tarn_guest_api::{CopyIn, CopyOut};
use tarn_task::Tasks;
use tarn_types::{SnapshotId, UnixMillis};

use crate::{
    aside::aside,
    context::Context,
    journal::Journal,
    workshop::{Bench, Files, StepError, Workshop},
};

/// What a build led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The files.
    pub(crate) snapshot: SnapshotId,
    /// What the image says about running it.
    pub(crate) config: BuildConfig,
}

/// What a build is made of.
pub(crate) struct Engine<'a> {
    pub(crate) file: &'a Arc<Dockerfile>,
    pub(crate) context: Option<Arc<Context>>,
    pub(crate) workshop: &'a dyn Workshop,
    pub(crate) journal: &'a Journal,
    /// The size of the disk, which the files of a step depend on.
    pub(crate) disk_bytes: u64,
    /// When the build began.
    pub(crate) begun: UnixMillis,
    pub(crate) tasks: &'a Tasks,
}

/// Where a stage is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reached {
    key: CacheKey,
    files: Files,
    config: BuildConfig,
}

// === impl Engine ===

impl Engine<'_> {
    /// Builds all that the image needs.
    pub(crate) async fn run(&self) -> Result<Outcome, StepError> {
        for name in &self.file.unused_args {
            self.journal.note(format!("[warning] no ARG takes the build argument {name}"));
        }
        let mut done: BTreeMap<usize, Reached> = BTreeMap::new();
        for stage in self.file.needed() {
            let reached = self.stage(stage, &done).await?;
            done.insert(stage, reached);
        }
        let last = done.pop_last().map(|(_, reached)| reached);
        let last = last.ok_or_else(|| StepError::Internal("a build without a stage".into()))?;
        let snapshot = match &last.files {
            Files::Kept(snapshot) => snapshot.clone(),
            Files::Image(_) => self.unchanged(&last).await?,
        };
        Ok(Outcome { snapshot, config: last.config })
    }

    /// Keeps the files of a base that nothing was done to.
    async fn unchanged(&self, reached: &Reached) -> Result<SnapshotId, StepError> {
        if let Some(kept) = self.workshop.kept(reached.key).await {
            return Ok(kept);
        }
        let bench = self.workshop.open(&reached.files).await?;
        let snapshot = bench.keep(reached.key).await?;
        bench.close().await;
        Ok(snapshot)
    }

    async fn stage(
        &self,
        stage: usize,
        done: &BTreeMap<usize, Reached>,
    ) -> Result<Reached, StepError> {
        let Some(spec) = self.file.stages.get(stage) else {
            return Err(StepError::Internal(format!("there is no stage {stage}")));
        };
        let base = match &spec.base {
            Base::Stage(other) => reached(done, *other)?.clone(),
            Base::Image(name) => {
                self.journal.note(format!("[{}] FROM {name}", self.label(stage, 0)));
                let base = self.workshop.base(name).await?;
                Reached {
                    key: CacheKey::base(&base.identity, self.disk_bytes),
                    files: Files::Image(base.image),
                    config: base.config,
                }
            }
        };
        let failed = |bad: DockerfileError| StepError::Failed(bad.to_string());
        let state = StageState::new(Arc::clone(self.file), stage, base.config.clone());
        let mut state = state.map_err(failed)?;
        let mut at = base;
        let mut bench: Option<Box<dyn Bench>> = None;
        for step in 0..spec.len() {
            let applying = aside(self.tasks, move |_stop| {
                let effect = state.apply(step);
                (state, effect)
            });
            let (next, effect) = applying.await?;
            state = next;
            let effect = effect.map_err(failed)?;
            if effect == Effect::None {
                continue;
            }
            let what = format!("[{}] {}", self.label(stage, step + 1), spec.text(step));
            let content = self.content(&effect, done).await?;
            let key = at.key.then(&effect, content);
            if bench.is_none()
                && let Some(kept) = self.workshop.kept(key).await
            {
                self.journal.note(format!("{what} CACHED"));
                (at.key, at.files) = (key, Files::Kept(kept));
                continue;
            }
            self.journal.note(what);
            let open = match bench.take() {
                Some(open) => open,
                None => self.workshop.open(&at.files).await?,
            };
            self.perform(&*open, &effect, done).await?;
            at.files = Files::Kept(open.keep(key).await?);
            at.key = key;
            bench = Some(open);
        }
        if let Some(bench) = bench {
            bench.close().await;
        }
        at.config = state.config;
        Ok(at)
    }

    fn label(&self, stage: usize, step: usize) -> String {
        let spec = self.file.stages.get(stage);
        let steps = spec.map_or(0, tarn_build::Stage::len);
        let name = spec.and_then(|spec| spec.name.clone());
        let name = name.unwrap_or_else(|| format!("stage-{stage}"));
        format!("{name} {step}/{steps}")
    }

    /// Names what a copy takes.
    async fn content(
        &self,
        effect: &Effect,
        done: &BTreeMap<usize, Reached>,
    ) -> Result<Option<CacheKey>, StepError> {
        let Effect::Copy(copy) = effect else { return Ok(None) };
        match &copy.from {
            _ if copy.sources.is_empty() => Ok(None),
            CopyFrom::Context => self.context()?.content(copy, self.tasks).await.map(Some),
            CopyFrom::Stage(stage) => Ok(Some(reached(done, *stage)?.key)),
            CopyFrom::Image(name) => {
                let base = self.workshop.base(name).await?;
                Ok(Some(CacheKey::base(&base.identity, 0)))
            }
        }
    }

    fn context(&self) -> Result<&Arc<Context>, StepError> {
        self.context
            .as_ref()
            .ok_or_else(|| StepError::Failed("the build has no context".to_owned()))
    }

    async fn perform(
        &self,
        bench: &dyn Bench,
        effect: &Effect,
        done: &BTreeMap<usize, Reached>,
    ) -> Result<(), StepError> {
        match effect {
            Effect::None => Ok(()),
            Effect::Run(run) => bench.run(run, self.journal).await,
            Effect::MakeDir { path } => {
                let ask = CopyIn { dest: format!("{path}/"), chown: None, mode: None };
                bench.copy_in(&ask, Context::inline(&[], self.begun)).await
            }
            Effect::Copy(copy) => self.copy(bench, copy, done).await,
        }
    }

    async fn copy(
        &self,
        bench: &dyn Bench,
        copy: &Copy,
        done: &BTreeMap<usize, Reached>,
    ) -> Result<(), StepError> {
        let ask = CopyIn { dest: copy.dest.clone(), chown: copy.chown.clone(), mode: copy.chmod };
        if !copy.inline.is_empty() {
            bench.copy_in(&ask, Context::inline(&copy.inline, self.begun)).await?;
        }
        if copy.sources.is_empty() {
            return Ok(());
        }
        let files = match &copy.from {
            CopyFrom::Context => {
                let parcel = self.context()?.parcel(&copy.sources, self.tasks).await?;
                return bench.copy_in(&ask, parcel).await;
            }
            CopyFrom::Stage(stage) => reached(done, *stage)?.files.clone(),
            CopyFrom::Image(name) => Files::Image(self.workshop.base(name).await?.image),
        };
        let source = self.workshop.open(&files).await?;
        let parcel = source.copy_out(&CopyOut { sources: copy.sources.clone() }).await?;
        bench.copy_in(&ask, parcel).await?;
        source.close().await;
        Ok(())
    }
}

fn reached(done: &BTreeMap<usize, Reached>, stage: usize) -> Result<&Reached, StepError> {
    let missing = || StepError::Internal(format!("stage {stage} is needed before it is built"));
    done.get(&stage).ok_or_else(missing)
}

#[cfg(test)]
mod tests;
