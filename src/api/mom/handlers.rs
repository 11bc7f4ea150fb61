//! What each route does.

use super::answers::{Refused, Said};
use super::bindings::{self, declared, exchange_of, topic_of};
use super::parameters::{self, Given};
use super::session;
use super::table::{MomRoute, Row, UserRoute};
use crate::api::problem;
use crate::api::scope::Here;
use crate::base::limits;
use crate::broker::refusal::Refusal;
use crate::broker::{
    self, Body, Broker, Caller, Credential, Deleted, Durability, Messages, OutgoingMessage,
    QueueChange, SendStatus, Source, Terms, TopicChange,
};
use poem::{Request, RequestBody};
use serde_json::{Value, json};
use std::sync::Arc;

type Answer = Result<Said, Refused>;

/// Names on a page of the broker
const PAGE: i32 = 500;

/// Does what the row says.
///
/// # Errors
/// [`Refused`], which is an answer too.
pub async fn answer(row: &Row, request: &Request, body: &mut RequestBody, here: &Here) -> Answer {
    let MomRoute::Of(route) = row.route else {
        let given = parameters::read(row, request, body, here).await?;
        return match row.route {
            MomRoute::RegisterUser => register(request, &given, here).await,
            MomRoute::LoginUser => Ok(log_in(&given, here).await?.finish("Bienvenido de nuevo")),
            _ => log_out(request, here).await,
        };
    };
    // Who asks is known before anything that they say is looked at.
    let caller = session::caller(request, here).await?;
    let by = caller.ok_or_else(|| Refused::from(problem::no_credentials()))?;
    let given = parameters::read(row, request, body, here).await?;
    Call { by: &by, given, broker: &here.app.broker }.run(route).await
}

/// A session that has just begun.
struct Begun {
    user: String,
    token: broker::NewSession,
}

impl Begun {
    fn finish(&self, greeting: &str) -> Said {
        let token = self.token.token.as_str();
        Said::new(format!("{greeting}, {}.", self.user))
            .with("token", token)
            .cookie(session::set_cookie(token))
    }
}

async fn register(request: &Request, given: &Given, here: &Here) -> Answer {
    // Where registration is closed, an administrator registers; anybody else's credentials that
    // are no longer good are no reason to refuse.
    let by = session::caller(request, here).await.ok().flatten();
    let (broker, name) = (&here.app.broker, given.text("username"));
    let password = given.text("password");
    let registered = Box::pin(broker.register(by.as_ref(), here.origin(), name, password)).await;
    match registered {
        Ok(_) => {}
        Err(Refusal::NameTaken { .. }) => {
            return Err(Refused::new(409, format!("Ya existe un usuario con el nombre {name}.")));
        }
        Err(other) => return Err(other.into()),
    }
    Ok(log_in(given, here).await?.finish("Usuario registrado. Bienvenido").created())
}

async fn log_in(given: &Given, here: &Here) -> Result<Begun, Refused> {
    let terms = Terms { ttl_seconds: limits::SESSION_SECONDS_DEFAULT, bound: false };
    let (name, password) = (given.text("username"), given.text("password"));
    let token = Box::pin(here.app.broker.log_in(name, password, terms, here.origin())).await?;
    let user = token.user_name.clone();
    let _ = here.user.set(user.clone());
    Ok(Begun { user, token })
}

async fn log_out(request: &Request, here: &Here) -> Answer {
    let caller = match session::caller(request, here).await {
        Ok(caller) => caller,
        // A session that is over is logged out.
        Err(refused) if refused.status() == 401 => None,
        Err(refused) => return Err(refused),
    };
    let session = caller.filter(|by| matches!(by.credential, Credential::Session { .. }));
    let said = match session {
        Some(by) => {
            here.app.broker.log_out_current(&by).await?;
            Said::new(format!("Hasta luego, {}.", by.name))
        }
        None => Said::new("No había una sesión abierta."),
    };
    Ok(said.cookie(session::set_cookie("")))
}

/// A request of somebody who is known.
struct Call<'a> {
    by: &'a Caller,
    given: Given,
    broker: &'a Arc<Broker>,
}

impl Call<'_> {
    async fn run(mut self, route: UserRoute) -> Answer {
        match route {
            UserRoute::CreateQueue => self.create_queue().await,
            UserRoute::CreateTopic => self.create_topic().await,
            UserRoute::SubscribeToTopic => self.subscribe().await,
            UserRoute::VinculateQueue => self.bind().await,
            UserRoute::PublishMessage => self.publish().await,
            UserRoute::SendMessage => self.send().await,
            UserRoute::GetQueues => self.queues().await,
            UserRoute::GetTopics => self.topics().await,
            UserRoute::ConsumeMessage => self.consume().await,
            UserRoute::DeleteQueue => self.delete_queue().await,
            UserRoute::DeleteTopic => self.delete_topic().await,
        }
    }

    fn queue(&self) -> &str {
        self.given.text("nameQueue")
    }

    fn topic(&self) -> &str {
        self.given.text("nameTopic")
    }

    fn exchange(&self) -> &str {
        self.given.text("nameExchange")
    }

    async fn create_queue(&self) -> Answer {
        let name = self.queue();
        let put = Box::pin(self.broker.put_queue(self.by, name, QueueChange::default())).await;
        let taken = || Refused::new(400, format!("Ya existe una cola con el nombre {name}."));
        declared(put, taken)?;
        Ok(Said::new(format!("La cola {name} está lista.")))
    }

    async fn create_topic(&self) -> Answer {
        let name = self.topic();
        let put = Box::pin(self.broker.put_topic(self.by, name, TopicChange::default())).await;
        let taken = || Refused::new(403, format!("Ya existe un tópico con el nombre {name}."));
        declared(put, taken)?;
        Ok(Said::new(format!("El tópico {name} está listo.")))
    }

    /// What is asked of a topic that is not there is a mistake in a parameter here.
    fn no_topic(&self, refusal: Refusal) -> Refused {
        match refusal {
            Refusal::TopicNotFound => {
                Refused::new(400, format!("No existe el tópico {}.", self.topic()))
            }
            other => other.into(),
        }
    }

    async fn subscribe(&self) -> Answer {
        let topic = self.topic();
        self.broker.get_topic(self.by, topic).await.map_err(|refusal| self.no_topic(refusal))?;
        let queue = bindings::own_queue(self.broker, self.by, self.queue()).await?;
        bindings::associate(self.broker, self.by, topic, &queue).await?;
        Ok(Said::new(format!("La cola {} recibe lo que se publica en {topic}.", queue.name)))
    }

    async fn bind(&self) -> Answer {
        let queue = bindings::own_queue(self.broker, self.by, self.queue()).await?;
        let topic = bindings::open_exchange(self.broker, self.by, self.exchange()).await?;
        bindings::associate(self.broker, self.by, &topic, &queue).await?;
        let exchange = self.exchange();
        Ok(Said::new(format!("La cola {} está vinculada a {exchange}.", queue.name)))
    }

    async fn publish(&mut self) -> Answer {
        let message = self.given.take("message");
        let sent = self.publish_on(self.topic(), message, false).await;
        sent.map_err(|refusal| self.no_topic(refusal))?
    }

    async fn send(&mut self) -> Answer {
        let message = self.given.take("message");
        let sent = self.publish_on(&topic_of(self.exchange()), message, true).await;
        sent.map_err(|refusal| match refusal {
            Refusal::TopicNotFound | Refusal::Unroutable => {
                let exchange = self.exchange();
                Refused::new(400, format!("Ninguna cola está vinculada a {exchange}."))
            }
            other => other.into(),
        })?
    }

    async fn publish_on(
        &self,
        topic: &str,
        message: String,
        require_route: bool,
    ) -> Result<Answer, Refusal> {
        let message = OutgoingMessage::of(Body::Text(message));
        let (by, all) = (self.by, Durability::Quorum);
        let published = self.broker.publish(by, topic, vec![message], all, require_route, None);
        let mut published = Box::pin(published).await?;
        let Some(published) = published.pop() else {
            return Ok(Err(Refused::new(500, "Algo falló en el servidor.")));
        };
        let to = published.matched;
        Ok(match published.result.status {
            SendStatus::Stored { id, .. } => {
                Ok(Said::new("Mensaje enviado.").with("id", id).with("delivered_to", to))
            }
            SendStatus::Failed(refusal) => return Err(refusal),
            SendStatus::Unknown(_) => {
                Err(problem::Problem::not_enough_replicas(Some(broker::Outcome::Unknown)).into())
            }
        })
    }

    async fn queues(&self) -> Answer {
        let (mut lines, mut queues, mut cursor) = (Vec::new(), Vec::new(), None);
        loop {
            let (by, me) = (self.by, Some(self.by.name.as_str()));
            let page = self.broker.list_queues(by, me, "", cursor.as_deref(), PAGE).await?;
            for entry in &page.items {
                let stats = Box::pin(self.broker.queue_stats(entry)).await?;
                let topics = self.broker.links_into(entry.record.generation);
                let topic = topics.first().map(|(topic, _)| topic.as_str());
                let (associated, kind) = match topic.map(|topic| (topic, exchange_of(topic))) {
                    None => ("", ""),
                    Some((_, Some(exchange))) => (exchange, "direct"),
                    Some((topic, None)) => (topic, "topic"),
                };
                lines.push(entry.name.clone());
                queues.push(json!({
                    "nameQueue": entry.name,
                    "associated": associated,
                    "type": kind,
                    "messages": stats.ready + stats.leased + stats.delayed,
                }));
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(listed("No tiene colas.", &lines).with("queues", Value::Array(queues)));
            }
        }
    }

    async fn topics(&self) -> Answer {
        let (mut lines, mut topics, mut cursor) = (Vec::new(), Vec::new(), None);
        loop {
            let (by, me) = (self.by, Some(self.by.name.as_str()));
            let page = self.broker.list_topics(by, me, "", cursor.as_deref(), PAGE).await?;
            for entry in page.items.iter().filter(|entry| exchange_of(&entry.name).is_none()) {
                let subscribers = self.subscribers(&entry.name).await?;
                lines.push(entry.name.clone());
                topics.push(json!({ "nameTopic": entry.name, "subscribers": subscribers }));
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(listed("No tiene tópicos.", &lines).with("topics", Value::Array(topics)));
            }
        }
    }

    async fn subscribers(&self, topic: &str) -> Result<Vec<String>, Refused> {
        let (mut names, mut cursor) = (Vec::new(), None);
        loop {
            let listed =
                self.broker.list_subscriptions(self.by, topic, cursor.as_deref(), PAGE).await;
            let page = match listed {
                Ok(page) => page,
                // It went while the list was made.
                Err(Refusal::TopicNotFound) => return Ok(names),
                Err(other) => return Err(other.into()),
            };
            names.extend(page.items.into_iter().map(|entry| entry.name));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(names);
            }
        }
    }

    async fn consume(&self) -> Answer {
        let request = broker::ReceiveRequest {
            max_messages: 1,
            wait_seconds: 0,
            lease_seconds: None,
            auto_ack: true,
            from_dead: false,
            key: None,
        };
        let source = Source::Queue(self.queue());
        let received = Box::pin(self.broker.receive(self.by, source, request, || {})).await;
        let received = received.map_err(|refusal| not_yours("la cola", self.queue(), refusal))?;
        let Some(message) = received.into_iter().next() else {
            return Ok(Said::new("No hay mensajes en la cola.").with("empty", true));
        };
        let text = match message.body {
            Body::Text(text) => text,
            Body::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        };
        let said = Said::new(text).with("id", message.id).with("sender", message.sender);
        Ok(said.with("empty", false))
    }

    async fn delete_queue(&self) -> Answer {
        let name = self.queue();
        let refused = |refusal| not_yours("la cola", name, refusal);
        let queue = self.broker.get_queue(self.by, name).await.map_err(refused)?;
        if queue.value.owner == self.by.user || self.by.admin {
            bindings::dissociate(self.broker, self.by, &queue).await?;
        }
        let deleted = self.broker.delete_queue(self.by, name, Messages::Discard, None);
        match Box::pin(deleted).await.map_err(refused)? {
            Deleted::Gone | Deleted::Draining => {
                Ok(Said::new(format!("La cola {name} se eliminó.")))
            }
        }
    }

    async fn delete_topic(&self) -> Answer {
        let name = self.topic();
        let deleted = Box::pin(self.broker.delete_topic(self.by, name, false, None)).await;
        deleted.map_err(|refusal| not_yours("el tópico", name, refusal))?;
        Ok(Said::new(format!("El tópico {name} se eliminó.")))
    }
}

/// What is unknown and what is another's are the same here.
fn not_yours(what: &str, name: &str, refusal: Refusal) -> Refused {
    match refusal {
        Refusal::QueueNotFound
        | Refusal::TopicNotFound
        | Refusal::Forbidden { .. }
        | Refusal::NotOwner { .. } => {
            Refused::new(403, format!("No tiene permiso sobre {what} {name}, o no existe."))
        }
        other => other.into(),
    }
}

/// Names one per line, or a sentence when there are none.
fn listed(none: &str, names: &[String]) -> Said {
    if names.is_empty() { Said::new(none) } else { Said::new(names.join("\n")) }
}
