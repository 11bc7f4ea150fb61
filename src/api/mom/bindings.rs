//! Associations: a subscription named like the queue, which delivers into it. A queue has one at
//! a time. An exchange is a topic of its own.

use super::answers::Refused;
use crate::broker::refusal::Refusal;
use crate::broker::{Broker, Caller, Entry, SubscriptionChange, TopicChange};
use crate::protocol::record::{Queue, Right};

/// What the topic of an exchange begins with.
const EXCHANGE: &str = "exchange.";

/// The topic of an exchange.
pub fn topic_of(exchange: &str) -> String {
    format!("{EXCHANGE}{exchange}")
}

/// The exchange of a topic, if it is one's.
pub fn exchange_of(topic: &str) -> Option<&str> {
    topic.strip_prefix(EXCHANGE)
}

/// Whether something was made by being put; one of its name that was there already was not.
fn is_new<T>(put: Result<(bool, T), Refusal>) -> Result<bool, Refused> {
    match put {
        Ok((created, _)) => Ok(created),
        Err(Refusal::ConfigDiffers(_) | Refusal::NameTaken { .. }) => Ok(false),
        Err(other) => Err(other.into()),
    }
}

/// Something that has to be new: nothing is declared twice here.
///
/// # Errors
/// `taken` when its name is in use.
pub fn declared<T>(
    put: Result<(bool, T), Refusal>,
    taken: impl FnOnce() -> Refused,
) -> Result<(), Refused> {
    if is_new(put)? { Ok(()) } else { Err(taken()) }
}

/// A queue that the caller owns.
///
/// # Errors
/// 400 when there is none of that name.
pub async fn own_queue(broker: &Broker, by: &Caller, name: &str) -> Result<Entry<Queue>, Refused> {
    match broker.get_queue(by, name).await {
        Ok(entry) if entry.value.owner == by.user => Ok(entry),
        Ok(_) | Err(Refusal::QueueNotFound | Refusal::Forbidden { .. }) => {
            Err(Refused::new(400, format!("No tiene una cola con el nombre {name}.")))
        }
        Err(other) => Err(other.into()),
    }
}

/// Associates a queue of the caller with a topic.
///
/// # Errors
/// 409 when the queue has an association, and whatever keeps the caller from subscribing.
pub async fn associate(
    broker: &Broker,
    by: &Caller,
    topic: &str,
    queue: &Entry<Queue>,
) -> Result<(), Refused> {
    let taken = || Refused::new(409, format!("La cola {} ya tiene una asociación.", queue.name));
    if !broker.links_into(queue.record.generation).is_empty() {
        return Err(taken());
    }
    let deliver_to = Some(queue.name.clone());
    let change = SubscriptionChange { deliver_to, ..SubscriptionChange::default() };
    declared(Box::pin(broker.put_subscription(by, topic, &queue.name, &change)).await, taken)
}

/// Takes the associations of a queue away, before it goes itself.
///
/// # Errors
/// Whatever keeps the caller from it; what is gone already is fine.
pub async fn dissociate(broker: &Broker, by: &Caller, queue: &Entry<Queue>) -> Result<(), Refused> {
    for (topic, name) in broker.links_into(queue.record.generation) {
        match Box::pin(broker.delete_subscription(by, &topic, &name, None)).await {
            // Somebody else's: it is theirs to take away, and says itself that its queue is gone.
            Ok(())
            | Err(
                Refusal::SubscriptionNotFound
                | Refusal::TopicNotFound
                | Refusal::NotOwner { .. }
                | Refusal::Forbidden { .. },
            ) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

/// The topic of an exchange, made if it is not there: open to everyone, and its maker's.
///
/// # Errors
/// Whatever keeps the caller from making it.
pub async fn open_exchange(
    broker: &Broker,
    by: &Caller,
    exchange: &str,
) -> Result<String, Refused> {
    let topic = topic_of(exchange);
    match broker.get_topic(by, &topic).await {
        // It is its owner's to open and to narrow.
        Ok(_) | Err(Refusal::Forbidden { .. }) => {}
        Err(Refusal::TopicNotFound) => {
            let put = Box::pin(broker.put_topic(by, &topic, TopicChange::default())).await;
            if is_new(put)? {
                let rights = [Right::Publish, Right::Subscribe];
                Box::pin(broker.put_topic_grant(by, &topic, "*", rights)).await?;
            }
        }
        Err(other) => return Err(other.into()),
    }
    Ok(topic)
}
