//! What becomes of queues and topics whose owner is deleted.

use super::objects::Object;
use super::users::Owned;
use super::{Answer, Broker, Refusal};
use crate::base::ids::UserId;
use crate::base::limits::{QUEUES_PER_USER_MAX, TOPICS_PER_USER_MAX};
use crate::base::names::UserName;
use crate::protocol::record::{Queue, Topic, User};

impl Broker {
    /// Gives up what a user owns, as asked: object by object.
    pub(super) async fn give_up_objects(
        &self,
        name: &UserName,
        user: &User,
        owned: &Owned,
    ) -> Answer<()> {
        match owned {
            Owned::Refuse => {
                let count =
                    self.catalog.count_queues_of(user.id) + self.catalog.count_topics_of(user.id);
                if count == 0 { Ok(()) } else { Err(Refusal::StillOwns { count }) }
            }
            Owned::Delete => {
                self.delete_all_of::<Topic>(user.id).await?;
                self.delete_all_of::<Queue>(user.id).await
            }
            Owned::Transfer(to) => {
                let heir = self.heir(name, to)?;
                self.require_room(heir, user.id)?;
                self.transfer_all::<Topic>(user.id, heir).await?;
                self.transfer_all::<Queue>(user.id, heir).await
            }
        }
    }

    fn heir(&self, name: &UserName, to: &UserName) -> Answer<UserId> {
        if to == name {
            let message = "the new owner is the user to be deleted";
            return Err(Refusal::invalid("query.new_owner", "same", message));
        }
        let heir = self.catalog.user(to).ok_or(Refusal::UserNotFound)?;
        Ok(heir.user().ok_or(Refusal::UserNotFound)?.id)
    }

    /// Refuses when the heir would own more than a user may.
    fn require_room(&self, heir: UserId, from: UserId) -> Answer<()> {
        let queues = self.catalog.count_queues_of(heir) + self.catalog.count_queues_of(from);
        if queues > QUEUES_PER_USER_MAX {
            return Err(Refusal::Quota { what: "queues", limit: QUEUES_PER_USER_MAX });
        }
        let topics = self.catalog.count_topics_of(heir) + self.catalog.count_topics_of(from);
        if topics > TOPICS_PER_USER_MAX {
            return Err(Refusal::Quota { what: "topics", limit: TOPICS_PER_USER_MAX });
        }
        Ok(())
    }

    async fn delete_all_of<T: Object>(&self, user: UserId) -> Answer<()> {
        for (key, record) in T::owned_by(self, user) {
            self.delete_owned::<T>(&key, &record).await?;
        }
        Ok(())
    }

    async fn transfer_all<T: Object>(&self, from: UserId, to: UserId) -> Answer<()> {
        for (key, _) in T::owned_by(self, from) {
            self.transfer::<T>(&key, from, to).await?;
        }
        Ok(())
    }
}
