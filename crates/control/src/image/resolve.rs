//! From the name in a request to one image (spec 06 §1): the project's name, a name for all, a
//! stock image, and at last a reference that its registry is asked about.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tarn_host::{ImageError, ImageHold, PullTrouble};
use tarn_types::{BootImage, ImageName, ImagePin, ProjectId, RegistryLogin, TemplateId};
use tokio::time::Instant;

use super::{Answer, AskKey, ImageFiles, ImageTable, Named, Told, Turn, refusal};
use crate::{Control, ControlError};

/// How long a create waits for what a registry says.
const LOOK_UP: Duration = Duration::from_secs(20);

/// How long an old answer counts without asking again after its registry did not answer: whoever
/// comes meanwhile need not wait as long for nothing.
const SPARED: Duration = Duration::from_secs(30);

/// How many answers are remembered.
const ANSWERS: usize = 4096;

/// Names below this are stock images, registered ones, or nothing: no registry is asked for them.
pub(super) const STOCK: &str = "tensorlake/";

/// An image that was found, kept until it is dropped.
#[derive(Debug)]
pub(crate) struct FoundImage {
    pub(crate) image: BootImage,
    /// Whether a registry was asked, which takes its time.
    pub(crate) asked: bool,
    /// What a registered one is made of.
    pub(crate) files: Option<ImageFiles>,
    /// Until a record says who needs it.
    _hold: Option<ImageHold>,
}

// === impl FoundImage ===

impl FoundImage {
    pub(crate) fn stock(name: &ImageName) -> Self {
        Self { image: name.clone().into(), asked: false, files: None, _hold: None }
    }

    /// Takes a registered image. What it was built on stays because its files do.
    pub(super) fn registered(image: BootImage, files: ImageFiles) -> Self {
        Self { image, asked: false, files: Some(files), _hold: None }
    }
}

// === impl Control ===

impl Control {
    /// Finds the image that a project means by a name.
    pub(crate) async fn find_image(
        &self,
        project: &ProjectId,
        name: &ImageName,
    ) -> Result<FoundImage, ControlError> {
        self.find_image_with(project, name, None).await
    }

    /// Finds the image that a project means by a name. If it comes to asking a registry, that is
    /// shown `login`, or else what the project shows.
    pub(crate) async fn find_image_with(
        &self,
        project: &ProjectId,
        name: &ImageName,
        login: Option<&RegistryLogin>,
    ) -> Result<FoundImage, ControlError> {
        if let Ok(id) = name.as_str().parse::<TemplateId>() {
            let found = self.open_image(name, || self.0.images.visible(project, &id.image)).await?;
            return found.ok_or_else(|| {
                let tried = "No registered image has that id.".to_owned();
                ControlError::ImageNotFound { name: name.clone(), tried }
            });
        }
        let registered = || match self.0.images.find(project, name) {
            Some(Named::Registered(record)) => Some(record),
            Some(Named::Pulled(_)) | None => None,
        };
        if let Some(found) = self.open_image(name, registered).await? {
            return Ok(found);
        }
        if let Some(Named::Pulled(pin)) = self.0.images.find(project, name) {
            return Ok(self.found(name, pin, false));
        }
        match self.0.parts.images.resolve(name).await {
            Ok(_template) => {
                return Ok(FoundImage::stock(name));
            }
            Err(ImageError::NotFound { .. }) => {}
            Err(other) => return Err(refusal(name, other)),
        }
        if name.as_str().starts_with(STOCK) {
            let tried = format!("{} No registry is asked for `{STOCK}…`.", self.known().await);
            return Err(ControlError::ImageNotFound { name: name.clone(), tried });
        }
        match self.ask_registry(project, name, login).await {
            Ok(pin) => Ok(self.found(name, pin, true)),
            Err(ControlError::ImageNotFound { name, tried }) => {
                let tried = format!("{} As a reference: {tried}", self.known().await);
                Err(ControlError::ImageNotFound { name, tried })
            }
            Err(other) => Err(other),
        }
    }

    pub(crate) fn found(&self, name: &ImageName, pin: ImagePin, asked: bool) -> FoundImage {
        let hold = self.0.parts.images.holds().hold(&pin.digest);
        let image = BootImage { name: name.clone(), pin: Some(pin), registered: None };
        FoundImage { image, asked, files: None, _hold: Some(hold) }
    }

    async fn known(&self) -> String {
        let names = self.0.parts.images.names().await;
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        format!("Stock images are {}.", names.join(", "))
    }

    /// Asks a registry, unless it said lately; who shows a login of his own always asks.
    pub(crate) async fn ask_registry(
        &self,
        project: &ProjectId,
        name: &ImageName,
        login: Option<&RegistryLogin>,
    ) -> Result<ImagePin, ControlError> {
        if login.is_some() {
            return self.look_up(name, login).await.map_err(|bad| refusal(name, bad));
        }
        let (table, key) = (&self.0.images, (project.clone(), name.clone()));
        let fresh = Duration::from_secs(self.0.config.image_recheck_secs);
        if let Some(pin) = self.answer(&key, fresh) {
            return Ok(pin);
        }
        let came = Instant::now();
        let turn = table.turn(&key);
        let mut turn = turn.lock().await;
        // It was said to another while this one waited, good or bad, and to the same login.
        let forgets = table.forgets();
        if let Some(told) = &*turn
            && told.at >= came
            && told.forgets == forgets
        {
            return told.said.clone().map_err(|bad| refusal(name, bad));
        }
        if let Some(pin) = self.answer(&key, fresh) {
            return Ok(pin);
        }
        let login = self.login_for(project, name.as_str()).await?;
        let said = match self.look_up(name, login.as_ref()).await {
            Ok(pin) => {
                if table.forgets() == forgets {
                    table.remember(key, pin.clone());
                }
                Ok(pin)
            }
            Err(ImageError::Pull { trouble: PullTrouble::Unreachable, reason, .. })
                if let Some(pin) = self.last_known(&key) =>
            {
                tracing::warn!(
                    image = %name, reason, digest = %pin.digest,
                    "a registry does not say what a reference means; what it said last is used"
                );
                table.note_in_vain(&key);
                Ok(pin)
            }
            Err(bad) => {
                // Whatever it was, it is that no more.
                table.answers.lock().remove(&key);
                Err(bad)
            }
        };
        *turn = Some(Told { at: Instant::now(), forgets, said: said.clone() });
        said.map_err(|bad| refusal(name, bad))
    }

    /// Asks a registry what a reference means.
    async fn look_up(
        &self,
        name: &ImageName,
        login: Option<&RegistryLogin>,
    ) -> Result<ImagePin, ImageError> {
        let look_up = self.0.parts.images.look_up(name.as_str(), login);
        tokio::time::timeout(LOOK_UP, look_up).await.unwrap_or_else(|_elapsed| {
            let reason = format!("its registry did not answer within {} s", LOOK_UP.as_secs());
            let (image, trouble) = (name.to_string(), PullTrouble::Unreachable);
            Err(ImageError::Pull { image, trouble, reason })
        })
    }

    /// Returns what a registry said lately, or what it said last if it did not answer just now and
    /// the image is here.
    fn answer(&self, key: &AskKey, fresh: Duration) -> Option<ImagePin> {
        let answer = self.0.images.answer(key)?;
        let spared = || {
            answer.in_vain.is_some_and(|at| at.elapsed() < SPARED)
                && self.0.parts.images.is_here(&answer.pin.digest)
        };
        (answer.at.elapsed() < fresh || spared()).then_some(answer.pin)
    }

    /// Returns an old answer whose image is here.
    fn last_known(&self, key: &AskKey) -> Option<ImagePin> {
        let pin = self.0.images.answer(key)?.pin;
        self.0.parts.images.is_here(&pin.digest).then_some(pin)
    }
}

// === impl ImageTable ===

impl ImageTable {
    fn answer(&self, key: &AskKey) -> Option<Answer> {
        self.answers.lock().get(key).cloned()
    }

    /// Returns how often answers were forgotten: what was asked before is not said to whoever comes
    /// after.
    fn forgets(&self) -> u64 {
        self.forgets.load(Ordering::SeqCst)
    }

    fn note_in_vain(&self, key: &AskKey) {
        if let Some(answer) = self.answers.lock().get_mut(key) {
            answer.in_vain = Some(Instant::now());
        }
    }

    fn remember(&self, key: AskKey, pin: ImagePin) {
        let mut answers = self.answers.lock();
        if answers.len() >= ANSWERS
            && let Some(oldest) = answers.iter().min_by_key(|(_, answer)| answer.at)
        {
            let oldest = oldest.0.clone();
            answers.remove(&oldest);
        }
        answers.insert(key, Answer { pin, at: Instant::now(), in_vain: None });
    }

    fn turn(&self, key: &AskKey) -> Turn {
        let mut asking = self.asking.lock();
        // What only the table holds is in nobody's hands.
        asking.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(asking.entry(key.clone()).or_default())
    }

    /// Forgets what registries said to a project, as it shows them something else now.
    pub(super) fn forget_answers(&self, project: &ProjectId) {
        self.forgets.fetch_add(1, Ordering::SeqCst);
        self.answers.lock().retain(|(of, _), _| of != project);
    }
}
