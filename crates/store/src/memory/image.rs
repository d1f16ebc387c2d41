//! Images: those that are registered, names of others, and the builds of images.

use tarn_types::{BuildId, BuildRecord, ImageId, ImageNameRecord, ImageRecord};

use super::Tables;
use crate::{StoreError, format};

// === impl Tables ===

impl Tables {
    /// Returns the registered images, oldest first.
    pub(super) fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let decode = |(id, bytes): (&ImageId, &String)| {
            format::decode_image(format::IMAGE_FORMAT, id.as_str(), bytes)
        };
        let mut all = self.images.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(all)
    }

    pub(super) fn image_put(&mut self, record: &ImageRecord) -> Result<ImageRecord, StoreError> {
        let all = self.images()?;
        let same =
            all.iter().find(|known| known.scope() == record.scope() && known.name == record.name);
        let mut stored = record.clone();
        match same {
            Some(known) if known.project != record.project => {
                return Err(StoreError::Exists { what: "image" });
            }
            Some(known) => (stored.id, stored.created_at) = (known.id.clone(), known.created_at),
            None if self.images.contains_key(&record.id) => {
                return Err(StoreError::Exists { what: "image" });
            }
            None => {}
        }
        self.images.insert(stored.id.clone(), format::encode_image(&stored)?);
        self.image_names.remove(&(stored.scope().cloned(), stored.name.clone()));
        Ok(stored)
    }

    pub(super) fn image_name_put(&mut self, record: &ImageNameRecord) -> ImageNameRecord {
        let key = (record.project.clone(), record.name.clone());
        let mut stored = record.clone();
        if let Some(known) = self.image_names.get(&key) {
            stored.created_at = known.created_at;
        }
        self.image_names.insert(key, stored.clone());
        stored
    }

    /// Returns the builds of images, oldest first.
    pub(super) fn builds(&self) -> Result<Vec<BuildRecord>, StoreError> {
        let decode = |(id, text): (&BuildId, &String)| {
            format::decode_build(format::BUILD_FORMAT, id.as_str(), text)
        };
        let mut all = self.builds.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(all)
    }
}
