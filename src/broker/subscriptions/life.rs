//! How a subscription begins and ends, step by step, and who completes what was begun.

use super::*;
use futures_util::future::join_all;

/// Subscriptions ended at once, so that they share commits.
const ENDED_AT_ONCE: usize = 100;

impl Broker {
    /// Completes a subscription that a crash left `Starting`. Whoever reads from one calls this
    /// first.
    pub(crate) async fn started(
        &self,
        key: &RecordKey,
        record: Arc<Record>,
    ) -> Answer<Arc<Record>> {
        match record.subscription() {
            Some(subscription) if subscription.phase == Phase::Starting => {
                self.start_reading(key, &record).await
            }
            _ => Ok(record),
        }
    }

    /// Ends what reads a topic, or delivers into a queue, that is sealed and about to be free.
    pub(in crate::broker) async fn end_dependents(&self, stream: Generation) -> Answer<()> {
        let mut ending = self.catalog.subscriptions_of(stream);
        ending.extend(self.catalog.links_into(stream));
        self.end_subscriptions(ending).await
    }

    /// Ends what a user who is gone made.
    pub(in crate::broker) async fn end_subscriptions_by(&self, user: UserId) -> Answer<()> {
        self.end_subscriptions(self.catalog.subscriptions_by(user)).await
    }

    /// Worker's part: completes what is starting, and ends what lost its topic, queue or maker
    /// without anybody having taken it along.
    pub(in crate::broker) async fn finish_subscriptions(&self) {
        for (key, record) in self.catalog.starting() {
            let topic = record.subscription().map(|it| self.catalog.stream_by_generation(it.topic));
            // Of a topic that is being deleted: ended with it.
            let live = topic.flatten().is_some_and(|(_, it)| it.state == State::Live);
            if live && let Err(refusal) = self.start_reading(&key, &record).await {
                tracing::warn!(subscription = name_of(&key), ?refusal, "it has to wait");
            }
        }
        let mut strays = self.catalog.strays();
        strays.retain(|(key, record)| self.is_stray(key, record));
        if let Err(refusal) = self.end_subscriptions(strays).await {
            tracing::warn!(?refusal, "subscriptions that lost something have to wait");
        }
    }

    /// Whether a record says that something is gone: that there is none yet says nothing.
    fn is_stray(&self, key: &RecordKey, record: &Record) -> bool {
        let Some(subscription) = record.subscription() else { return false };
        let gone = |kind, name: &str, generation| {
            let latest = self.catalog.get(&RecordKey::new(kind, name));
            latest.is_some_and(|it| it.state == State::Free || it.generation != generation)
        };
        let topic = name_of(key);
        let topic = topic.split_once('/').map_or("", |(topic, _)| topic);
        let target = subscription.deliver_to.as_ref();
        gone(Kind::Topic, topic, subscription.topic)
            || target.is_some_and(|it| gone(Kind::Queue, &it.name, it.generation))
            || self.catalog.user_by_id(subscription.owner).is_none()
    }

    async fn end_subscriptions(&self, ending: Vec<(RecordKey, Arc<Record>)>) -> Answer<()> {
        for some in ending.chunks(ENDED_AT_ONCE) {
            let ends = some.iter().map(|(key, record)| self.end_subscription(key, record));
            join_all(ends).await.into_iter().collect::<Answer<()>>()?;
        }
        Ok(())
    }

    pub(super) async fn end_subscription(&self, key: &RecordKey, record: &Record) -> Answer<()> {
        let generation = record.generation;
        let rule = |latest: Option<&Arc<Record>>| {
            let latest = latest.filter(|it| it.generation == generation);
            let latest = latest.ok_or(Refusal::SubscriptionNotFound)?;
            match latest.subscription() {
                Some(live) => Ok(Step::Write(draft(generation, State::Sealed, live.clone()))),
                None => Ok(Step::Keep(Arc::clone(latest))),
            }
        };
        match self.alter(key, rule).await {
            Ok(sealed) => self.stop_reading(key, &sealed).await,
            Err(Refusal::SubscriptionNotFound) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    async fn start_reading(&self, key: &RecordKey, starting: &Arc<Record>) -> Answer<Arc<Record>> {
        self.begin_reading(starting).await?;
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, subscription) = live_subscription(latest, starting.generation)?;
            if subscription.phase == Phase::Active {
                return Ok(Step::Keep(Arc::clone(latest)));
            }
            let active = Subscription { phase: Phase::Active, ..subscription.clone() };
            Ok(Step::Write(draft(latest.generation, State::Live, active)))
        };
        self.alter(key, rule).await
    }

    pub(in crate::broker) async fn stop_reading(
        &self,
        key: &RecordKey,
        sealed: &Arc<Record>,
    ) -> Answer<()> {
        self.end_reading(sealed).await?;
        let rule = |latest: Option<&Arc<Record>>| match latest {
            Some(it) if it.generation == sealed.generation && it.state == State::Sealed => {
                Ok(Step::Write(free_draft(it)))
            }
            _ => Ok(Step::Keep(Arc::clone(sealed))),
        };
        self.alter(key, rule).await.map(|_| ())
    }

    /// What a new subscription names may have gone while it was written, and could not take along
    /// what was not there yet.
    pub(super) async fn require_surroundings(
        &self,
        key: &RecordKey,
        record: &Arc<Record>,
    ) -> Answer<()> {
        let Some(subscription) = record.subscription() else { return Ok(()) };
        let is_live = |generation| {
            let stream = self.catalog.stream_by_generation(generation);
            stream.is_some_and(|(_, record)| record.state == State::Live)
        };
        let target = subscription.deliver_to.as_ref();
        let refusal = if self.catalog.user_by_id(subscription.owner).is_none() {
            Refusal::Unauthenticated
        } else if !is_live(subscription.topic) {
            Refusal::TopicNotFound
        } else if target.is_some_and(|target| !is_live(target.generation)) {
            Refusal::QueueNotFound
        } else {
            return Ok(());
        };
        self.end_subscription(key, record).await?;
        Err(refusal)
    }
}
