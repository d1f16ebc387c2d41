//! Pools.

use tarn_types::{PoolId, PoolRecord};

use super::Tables;
use crate::{StoreError, format, rule};

// === impl Tables ===

impl Tables {
    fn pool(&self, id: &PoolId) -> Result<PoolRecord, StoreError> {
        let bytes = self.pools.get(id).ok_or(StoreError::NotFound { what: "pool" })?;
        format::decode_pool(format::POOL_FORMAT, id.as_str(), bytes)
    }

    pub(super) fn pool_insert(
        &mut self,
        record: &PoolRecord,
        bytes: String,
    ) -> Result<(), StoreError> {
        if self.pools.contains_key(&record.id) {
            return Err(StoreError::Exists { what: "pool" });
        }
        self.pools.insert(record.id.clone(), bytes);
        Ok(())
    }

    pub(super) fn pool_update(
        &mut self,
        record: &PoolRecord,
        bytes: String,
    ) -> Result<(), StoreError> {
        let stored = self.pool(&record.id)?;
        if record.sequence.checked_sub(1) != Some(stored.sequence) {
            return Err(StoreError::PoolConflict { id: stored.id });
        }
        let fixed =
            rule::StoredPool { project: stored.project.as_str(), created_at: stored.created_at };
        rule::check_pool_change(&fixed, record)?;
        self.pools.insert(stored.id, bytes);
        Ok(())
    }

    pub(super) fn pool_list(&self) -> Result<Vec<PoolRecord>, StoreError> {
        let all = self.pools.keys().map(|id| self.pool(id));
        let mut all = all.collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(all)
    }
}
