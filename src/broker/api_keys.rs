//! API keys: credentials for programs, which live until they expire or are deleted.

use super::rights::right_words;
use super::sessions::place;
use super::{Answer, Broker, Caller, Page, Refusal};
use crate::base::ids::ApiKeyId;
use crate::base::limits::API_KEYS_PER_USER_MAX;
use crate::protocol::record::{ApiKey, Kind, Record, RecordKey, Right, Value};
use crate::security::{Token, TokenKind};
use std::collections::BTreeSet;

/// Characters of what its owner calls a key, at most.
const NAME_CHARS_MAX: usize = 128;

impl Broker {
    /// Makes an API key for the caller, that ends at wall time `expires_ms` if given, and gives no
    /// other rights than `scopes` if given. The token is its secret, which nobody sees again.
    ///
    /// # Errors
    /// `Invalid`, `Quota`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn create_api_key(
        &self,
        by: &Caller,
        name: &str,
        expires_ms: Option<u64>,
        scopes: Option<BTreeSet<Right>>,
    ) -> Answer<(Token, ApiKey)> {
        let now_ms = self.clock.wall_ms();
        check_name(name)?;
        if scopes.as_ref().is_some_and(BTreeSet::is_empty) {
            let message = "a key without any right opens nothing; leave it out for all rights";
            return Err(Refusal::invalid("scopes", "length", message));
        }
        if expires_ms.is_some_and(|end| end <= now_ms) {
            let message = "a key ends in the future";
            return Err(Refusal::invalid("expires_at", "past", message));
        }
        if self.catalog.api_keys_of(by.user).len() >= API_KEYS_PER_USER_MAX {
            return Err(Refusal::Quota { what: "API keys", limit: API_KEYS_PER_USER_MAX });
        }
        let (token, hash) = self.keys.mint_token(TokenKind::ApiKey, &*self.rng);
        let api_key = ApiKey {
            id: ApiKeyId::random(&*self.rng),
            user: by.user,
            user_name: by.name.to_string(),
            name: name.to_owned(),
            created_ms: now_ms,
            expires_ms,
            scopes,
        };
        let key = RecordKey::new(Kind::ApiKey, hash);
        self.create(&key, Value::ApiKey(api_key.clone())).await?;
        let scopes =
            api_key.scopes.as_ref().map(|scopes| format!("scopes={}", right_words(scopes)));
        let (id, detail) = (api_key.id.to_string(), scopes.unwrap_or_default());
        by.note("create_api_key", ("api_key", &id), &detail);
        Ok((token, api_key))
    }

    /// The caller's own API keys, the oldest first; expired ones are left out.
    ///
    /// # Errors
    /// `Invalid`.
    pub async fn list_api_keys(
        &self,
        by: &Caller,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<ApiKey>> {
        let now_ms = self.clock.wall_ms();
        let records = self.catalog.api_keys_of(by.user);
        let api_keys = records.iter().filter_map(|(_, record)| record.api_key());
        let living = api_keys.filter(|key| key.expires_ms.is_none_or(|end| end > now_ms)).cloned();
        let order = |key: &ApiKey| place(key.created_ms, &key.id.0);
        self.page_of_own(b"api-keys", by, cursor, limit, living.collect(), order)
    }

    /// Ends one of the caller's own API keys; nothing accepts it once this is answered.
    ///
    /// # Errors
    /// `ApiKeyNotFound` also for other people's; `Overloaded`, `NotEnoughReplicas`.
    pub async fn delete_api_key(&self, by: &Caller, id: &str) -> Answer<()> {
        let id = ApiKeyId::parse(id).ok_or(Refusal::ApiKeyNotFound)?;
        let is_it = |record: &Record| record.api_key().is_some_and(|key| key.id == id);
        let mut own = self.catalog.api_keys_of(by.user).into_iter();
        let (key, _) = own.find(|(_, it)| is_it(it)).ok_or(Refusal::ApiKeyNotFound)?;
        self.free(&key).await?;
        by.note("delete_api_key", ("api_key", &id.to_string()), "");
        Ok(())
    }
}

fn check_name(name: &str) -> Answer<()> {
    if !(1..=NAME_CHARS_MAX).contains(&name.chars().count()) {
        let message = format!("a key's name has 1 to {NAME_CHARS_MAX} characters");
        return Err(Refusal::invalid("name", "length", message));
    }
    if name.chars().any(char::is_control) {
        let message = "a key's name has no control characters";
        return Err(Refusal::invalid("name", "pattern", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::clock::Clock as _;
    use crate::broker::UserPatch;
    use crate::broker::testing::*;

    #[tokio::test]
    async fn a_key_is_its_user_until_it_is_deleted_or_expires() {
        let (broker, clock) = broker_and_clock();
        let ana = user(&broker, "ana").await;
        let (forever, first) = broker.create_api_key(&ana, "ci", None, None).await.unwrap();
        let end = clock.wall_ms() + 1_000;
        let (brief, second) = broker.create_api_key(&ana, "día 2", Some(end), None).await.unwrap();
        assert!(forever.as_str().starts_with("ttk_"));
        let caller = broker.authenticate_bearer(brief.as_str(), HERE).unwrap();
        assert_eq!((caller.user, caller.admin), (ana.user, true));
        let listed = broker.list_api_keys(&ana, None, 100).await.unwrap().items;
        assert_eq!(sorted(&listed), sorted(&[first.clone(), second]));
        clock.advance_ms(1_000);
        let refused = |token: &Token| broker.authenticate_bearer(token.as_str(), HERE).unwrap_err();
        assert_eq!(refused(&brief), Refusal::Unauthenticated);
        let listed = broker.list_api_keys(&ana, None, 100).await.unwrap().items;
        assert_eq!(listed, std::slice::from_ref(&first));
        broker.authenticate_bearer(forever.as_str(), HERE).unwrap();
        broker.delete_api_key(&ana, &first.id.to_string()).await.unwrap();
        assert_eq!(refused(&forever), Refusal::Unauthenticated);
        let again = broker.delete_api_key(&ana, &first.id.to_string()).await;
        assert_eq!(again, Err(Refusal::ApiKeyNotFound));
        assert_eq!(broker.sweep().await, Ok(1));
    }

    fn sorted(keys: &[ApiKey]) -> Vec<ApiKey> {
        let mut keys = keys.to_vec();
        keys.sort_by_key(|key| key.id);
        keys
    }

    #[tokio::test]
    async fn a_key_of_others_is_not_found() {
        let broker = broker();
        let root = user(&broker, "root").await;
        let ana = user(&broker, "ana").await;
        let (_, key) = broker.create_api_key(&ana, "ci", None, None).await.unwrap();
        for id in [key.id.to_string(), "nonsense".into()] {
            let refused = broker.delete_api_key(&root, &id).await;
            assert_eq!(refused, Err(Refusal::ApiKeyNotFound));
        }
        assert!(broker.list_api_keys(&root, None, 100).await.unwrap().items.is_empty());
    }

    #[tokio::test]
    async fn what_a_key_may_be_called_and_when_it_may_end() {
        let (broker, clock) = broker_and_clock();
        let ana = user(&broker, "ana").await;
        let long = "é".repeat(129);
        for (name, end, field) in [
            ("", None, "name"),
            (long.as_str(), None, "name"),
            ("a\nb", None, "name"),
            ("ci", Some(clock.wall_ms()), "expires_at"),
        ] {
            let refused = broker.create_api_key(&ana, name, end, None).await.err().unwrap();
            assert_eq!(fault(&refused), field);
        }
        let none = broker.create_api_key(&ana, "ci", None, Some(BTreeSet::new())).await;
        assert_eq!(fault(&none.err().unwrap()), "scopes");
        let edge = "é".repeat(128);
        assert!(broker.create_api_key(&ana, &edge, None, None).await.is_ok());
    }

    #[tokio::test]
    async fn a_user_has_at_most_100_keys() {
        let broker = broker();
        let ana = user(&broker, "ana").await;
        for n in 0..API_KEYS_PER_USER_MAX {
            broker.create_api_key(&ana, &n.to_string(), None, None).await.unwrap();
        }
        let refused = broker.create_api_key(&ana, "more", None, None).await.err();
        assert_eq!(refused, Some(Refusal::Quota { what: "API keys", limit: 100 }));
        let first = broker.list_api_keys(&ana, None, 60).await.unwrap();
        let next = broker.list_api_keys(&ana, first.next.as_deref(), 60).await.unwrap();
        assert_eq!((first.items.len(), next.items.len(), next.next), (60, 40, None));
        assert!(next.items.iter().all(|key| !first.items.contains(key)));
    }

    #[tokio::test]
    async fn a_new_password_leaves_keys_and_disabled_stops_them() {
        let broker = broker();
        let root = user(&broker, "root").await;
        let ana = user(&broker, "ana").await;
        let (token, _) = broker.create_api_key(&ana, "ci", None, None).await.unwrap();
        let patch = UserPatch { password: Some("another one".into()), ..UserPatch::default() };
        broker.update_user(&root, "ana", patch, None).await.unwrap();
        broker.authenticate_bearer(token.as_str(), HERE).unwrap();
        let disabled = |yes| UserPatch { disabled: Some(yes), ..UserPatch::default() };
        broker.update_user(&root, "ana", disabled(true), None).await.unwrap();
        let refused = broker.authenticate_bearer(token.as_str(), HERE).unwrap_err();
        assert_eq!(refused, Refusal::Unauthenticated);
        broker.update_user(&root, "ana", disabled(false), None).await.unwrap();
        broker.authenticate_bearer(token.as_str(), HERE).unwrap();
    }
}
