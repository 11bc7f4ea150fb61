//! How the rules change a record: judge its latest version, swap, and judge anew when another was
//! faster. So without `If-Match` the last writer wins, per field.

use super::{Answer, Broker, Outcome, Refusal};
use crate::metadata::{ChangeError, Draft};
use crate::protocol::record::{Record, RecordKey, State, Value};
use futures_util::future::join_all;
use std::sync::Arc;

/// How often a change is judged anew before its caller is told to come back.
const TRIES_MAX: usize = 16;

const CONTENDED: Refusal = Refusal::Overloaded { why: "others keep changing the same record" };

/// What a rule makes of a record's latest version.
// A step lives for a moment and is never kept: its size costs nothing that a box would save.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Step {
    /// Nothing is to be changed.
    Keep(Arc<Record>),
    /// This is to be the next version.
    Write(Draft),
}

impl Broker {
    /// Changes a record by a rule, which sees the latest version, or `None` when there never was
    /// one. A refusal of the rule is the answer.
    pub(crate) async fn alter(
        &self,
        key: &RecordKey,
        mut rule: impl FnMut(Option<&Arc<Record>>) -> Answer<Step> + Send,
    ) -> Answer<Arc<Record>> {
        for _ in 0..TRIES_MAX {
            let latest = self.catalog.get(key);
            let next = match rule(latest.as_ref())? {
                Step::Keep(record) => return Ok(record),
                Step::Write(next) => next,
            };
            let version = latest.map_or(0, |record| record.version);
            if let Some(record) = self.swap(key, version, next).await? {
                return Ok(record);
            }
        }
        Err(CONTENDED)
    }

    /// Frees a record, whatever its version; free already is as good. Answers whether it was in
    /// use until now.
    pub(crate) async fn free(&self, key: &RecordKey) -> Answer<bool> {
        for _ in 0..TRIES_MAX {
            // `None`: a session or API key that is free is forgotten.
            let latest = self.catalog.get(key).filter(|record| record.state != State::Free);
            let Some(latest) = latest else { return Ok(false) };
            if self.swap(key, latest.version, free_draft(&latest)).await?.is_some() {
                return Ok(true);
            }
        }
        Err(CONTENDED)
    }

    /// One compare-and-swap; `None` when another was faster.
    async fn swap(
        &self,
        key: &RecordKey,
        version: u64,
        next: Draft,
    ) -> Answer<Option<Arc<Record>>> {
        match self.registers.change(key.clone(), version, next).await {
            Ok(record) => Ok(Some(record)),
            Err(ChangeError::Conflict(_)) => Ok(None),
            Err(ChangeError::NotStored(why)) => Err(Refusal::Overloaded { why }),
            Err(ChangeError::Unknown) => {
                Err(Refusal::NotEnoughReplicas { outcome: Outcome::Unknown })
            }
        }
    }

    /// Frees many records at once, so that they share commits. Answers how many were in use; the
    /// first refusal when there was one, but only after all were tried.
    pub(crate) async fn free_all(&self, keys: Vec<RecordKey>) -> Answer<usize> {
        let freed = join_all(keys.iter().map(|key| self.free(key))).await;
        let freed: Vec<bool> = freed.into_iter().collect::<Answer<_>>()?;
        Ok(freed.into_iter().filter(|freed| *freed).count())
    }
}

/// The record's name becomes free.
pub(crate) fn free_draft(record: &Record) -> Draft {
    Draft { generation: record.generation, state: State::Free, value: Value::Nothing }
}
