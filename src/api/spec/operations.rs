//! THE table: a row per operation. The document, the answers' check, `Allow` and the log's route
//! templates all read it.

use crate::api::codes::{self, Code};
use crate::base::limits;

/// Who may do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Anybody, without credentials.
    Nobody,
    /// Anybody where registration is open, else administrators.
    OpenRegistration,
    /// Any user.
    AnyUser,
    /// Administrators.
    Admin,
    /// The user in the path, or administrators.
    SelfOrAdmin,
    /// Whose it is, or administrators.
    Own,
    /// The queue's owner, or administrators.
    QueueOwner,
    /// Any right on the queue.
    AnyRight,
    /// This right on the queue.
    Right(&'static str),
    /// The topic's owner, or administrators.
    TopicOwner,
    /// Any right on the topic.
    AnyTopicRight,
    /// This right on the topic.
    TopicRight(&'static str),
    /// The subscription's creator, the topic's owner, or administrators.
    Subscriber,
    /// The subscription's creator, or administrators.
    Creator,
}

impl Needs {
    /// The same in words.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Nobody => "Public: needs no credentials.".to_owned(),
            Self::OpenRegistration => "Public while registration is open, else for \
                administrators. Credentials are not needed, but wrong ones are refused."
                .to_owned(),
            Self::AnyUser => "Needs: any user.".to_owned(),
            Self::Admin => "Needs: an administrator.".to_owned(),
            Self::SelfOrAdmin => "Needs: that user, or an administrator.".to_owned(),
            Self::Own => "Needs: whose it is, or an administrator.".to_owned(),
            Self::QueueOwner => "Needs: the queue's owner, or an administrator.".to_owned(),
            Self::TopicOwner => "Needs: the topic's owner, or an administrator.".to_owned(),
            Self::AnyTopicRight => "Needs: any right on the topic.".to_owned(),
            Self::TopicRight(right) => {
                format!(
                    "Needs: the right `{right}` on the topic; owner and administrators have it."
                )
            }
            Self::Subscriber => {
                "Needs: the subscription's creator, the topic's owner, or an administrator."
                    .to_owned()
            }
            Self::Creator => "Needs: the subscription's creator, or an administrator.".to_owned(),
            Self::AnyRight => "Needs: any right on the queue.".to_owned(),
            Self::Right(right) => {
                format!(
                    "Needs: the right `{right}` on the queue; owner and administrators have it."
                )
            }
        }
    }

    /// Whether a request without credentials may succeed.
    #[must_use]
    pub fn is_public(self) -> bool {
        matches!(self, Self::Nobody | Self::OpenRegistration)
    }
}

/// One operation.
#[derive(Debug)]
pub struct Operation {
    /// Its id, the same in every client.
    pub id: &'static str,
    /// Its method.
    pub method: &'static str,
    /// Its path, as the document writes it.
    pub path: &'static str,
    /// Its tag.
    pub tag: &'static str,
    /// Who may do it.
    pub needs: Needs,
    /// Whether it takes a body.
    pub body: bool,
    /// Whether its answers carry an etag.
    pub etag: bool,
    /// How it may succeed.
    pub success: &'static [(u16, &'static str)],
    /// What to know about it.
    pub about: &'static str,
    /// How it may fail, beside what all operations of its kind share.
    own: &'static [Code],
}

impl Operation {
    /// Every code it may answer with, by status.
    #[must_use]
    pub fn codes(&self) -> Vec<Code> {
        codes::ALL.iter().copied().filter(|code| self.may_fail_with(*code)).collect()
    }

    /// Whether it may answer with a code.
    fn may_fail_with(&self, code: Code) -> bool {
        let kinds: &[(bool, &[Code])] = &[
            (true, self.own),
            (true, &[codes::INTERNAL, codes::OVERLOADED]),
            (self.is_versioned(), &[codes::VALIDATION, codes::NOT_ENOUGH_REPLICAS]),
            (!self.needs.is_public(), &[codes::UNAUTHENTICATED, codes::RATE_LIMITED]),
            (self.may_refuse_scopes(), &[codes::FORBIDDEN]),
            (self.body, BODY_CODES),
        ];
        kinds.iter().any(|(of_kind, codes)| *of_kind && codes.contains(&code))
    }

    /// Whether a problem's code is in its row. What the transport refuses is of no operation.
    #[must_use]
    pub fn expects(&self, word: &str) -> bool {
        let found = codes::ALL.iter().find(|code| code.word == word);
        found.is_some_and(|code| self.may_fail_with(*code) || BODY_CODES.contains(code))
    }

    /// Whether it lies under `/v1`.
    #[must_use]
    pub fn is_versioned(&self) -> bool {
        self.path.starts_with("/v1/")
    }

    /// Bytes of its body, at most; `None`: what the node takes at all.
    #[must_use]
    pub fn body_bytes_max(&self) -> Option<usize> {
        match self.needs {
            Needs::Nobody | Needs::OpenRegistration => Some(limits::PUBLIC_BODY_BYTES_MAX),
            _ if matches!(self.id, "send_messages" | "publish_messages") => None,
            _ => Some(limits::PLAIN_BODY_BYTES_MAX),
        }
    }

    /// Whether nobody may do it without credentials.
    #[must_use]
    pub fn is_private(&self) -> bool {
        !matches!(self.needs, Needs::Nobody | Needs::OpenRegistration)
    }

    /// Whether an API key with scopes gets so far at all: what is about messages, not about
    /// identities and the node. What is new is not, until it is named here.
    #[must_use]
    pub fn takes_scoped_keys(&self) -> bool {
        matches!(self.tag, "queues" | "messages" | "topics" | "subscriptions")
    }

    /// Whether an API key with scopes may be refused: everywhere but where credentials are not
    /// looked at, and in lists, which show less.
    fn may_refuse_scopes(&self) -> bool {
        self.needs != Needs::Nobody
            && !matches!(self.id, "list_queues" | "list_topics" | "list_subscriptions")
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.method == "GET"
    }
}

const BODY_CODES: &[Code] =
    &[codes::MALFORMED, codes::BODY_TIMEOUT, codes::TOO_LARGE, codes::UNSUPPORTED_MEDIA_TYPE];

/// Tags, in the document's order.
pub const TAGS: &[(&str, &str)] = &[
    ("users", "Who may connect. Start here: register, then authorize."),
    ("sessions", "Connect and disconnect with state: the token is the connection."),
    ("api_keys", "Long-lived secrets for programs, sent as Bearer."),
    ("queues", "Queues and who may use them. Declare a queue at every start: it is idempotent."),
    ("messages", "Send; receive under a lease; acknowledge, extend or give back."),
    (
        "topics",
        "Topics and who may use them: each message reaches every subscription that wants it.",
    ),
    ("subscriptions", "Named readers of a topic, each with its own place and filter."),
    ("operations", "The node's state, for those who run it."),
];

/// The paths that are served beside the operations, all by `GET`.
pub const DOCUMENTS: &[&str] = &[
    "/openapi.json",
    "/openapi.yaml",
    "/docs",
    "/docs/",
    "/v1/connect",
    "/mom/openapi.json",
    "/mom/openapi.yaml",
    "/mom/docs",
    "/mom/docs/",
];

macro_rules! operations {
    ($($id:ident $method:ident $path:literal $tag:ident $needs:expr;
        $($flag:ident)* [$($status:literal $text:literal),*] [$($code:ident),*] $about:literal;)*) => {
        /// The rows, in the document's order.
        pub static OPERATIONS: &[Operation] = &[$(Operation {
            id: stringify!($id),
            method: stringify!($method),
            path: $path,
            tag: stringify!($tag),
            needs: $needs,
            body: operations!(@ body $($flag)*),
            etag: operations!(@ etag $($flag)*),
            success: &[$(($status, $text)),*],
            about: $about,
            own: &[$(codes::$code),*],
        }),*];
    };
    (@ body body $($rest:ident)*) => { true };
    (@ etag etag $($rest:ident)*) => { true };
    (@ $want:ident $other:ident $($rest:ident)*) => { operations!(@ $want $($rest)*) };
    (@ $want:ident) => { false };
}

use Needs::{
    Admin, AnyRight, AnyTopicRight, AnyUser, Creator, Nobody, OpenRegistration, Own, QueueOwner,
    Right, SelfOrAdmin, Subscriber, TopicOwner, TopicRight,
};

operations! {
    register_user POST "/v1/users" users OpenRegistration;
        body etag [201 "The user."]
        [UNAUTHENTICATED, REGISTRATION_CLOSED, NAME_TAKEN, USER_NOT_FOUND, RATE_LIMITED]
        "The first user of a cluster that has no configured administrator becomes one.";
    list_users GET "/v1/users" users Admin;
        [200 "A page of users, by name."] [FORBIDDEN] "";
    get_current_user GET "/v1/users/me" users AnyUser;
        etag [200 "The user."] [] "";
    get_user GET "/v1/users/{username}" users SelfOrAdmin;
        etag [200 "The user."] [FORBIDDEN, USER_NOT_FOUND]
        "Somebody else is 403, whether or not there is such a user.";
    update_user PATCH "/v1/users/{username}" users SelfOrAdmin;
        body etag [200 "The user as changed."]
        [FORBIDDEN, USER_NOT_FOUND, PRECONDITION_FAILED]
        "Yourself: the password only, with `current_password`. A new password, or `disabled`, \
        ends the user's other sessions.";
    delete_user DELETE "/v1/users/{username}" users SelfOrAdmin;
        [204 "The user is gone."] [FORBIDDEN, USER_NOT_FOUND, STILL_OWNS, PRECONDITION_FAILED, QUOTA]
        "Sessions, keys and grants go with the user; messages sent keep the sender's name.";

    create_session POST "/v1/sessions" sessions Nobody;
        body [201 "The session and its token."] [BAD_CREDENTIALS, RATE_LIMITED]
        "Unknown users and wrong passwords get the same answer after the same time.";
    list_sessions GET "/v1/sessions" sessions AnyUser;
        [200 "A page of your sessions."] [] "";
    delete_current_session DELETE "/v1/sessions/current" sessions AnyUser;
        [204 "The session has ended."] [SESSION_NOT_FOUND]
        "Ends the session that this request comes by. No node accepts its token any more.";
    delete_session DELETE "/v1/sessions/{session_id}" sessions Own;
        [204 "The session has ended."] [SESSION_NOT_FOUND]
        "No node accepts its token any more.";

    create_api_key POST "/v1/api-keys" api_keys AnyUser;
        body [201 "The key with its secret, shown once."] [QUOTA] "";
    list_api_keys GET "/v1/api-keys" api_keys AnyUser;
        [200 "A page of your API keys."] [] "";
    delete_api_key DELETE "/v1/api-keys/{api_key_id}" api_keys AnyUser;
        [204 "The key is gone."] [API_KEY_NOT_FOUND]
        "Your own alone: those of others are not found, not even by administrators.";

    put_queue PUT "/v1/queues/{queue}" queues AnyUser;
        body etag [200 "It exists and is as you want it.", 201 "It is created."]
        [NAME_TAKEN, CONFIG_DIFFERS, DRAINING, QUOTA]
        "If it exists and you own or manage it, only the fields you give must match: declare \
        your queues at every start.";
    list_queues GET "/v1/queues" queues AnyUser;
        [200 "A page of the queues that you may see, by name."] []
        "Without `stats`, unless `include=stats` asks for them.";
    get_queue GET "/v1/queues/{queue}" queues AnyRight;
        etag [200 "The queue."] [FORBIDDEN, QUEUE_NOT_FOUND] "";
    update_queue PATCH "/v1/queues/{queue}" queues Right("manage");
        body etag [200 "The queue as changed."]
        [FORBIDDEN, QUEUE_NOT_FOUND, PRECONDITION_FAILED]
        "Fields that are absent stay. `ordering` and `replicas` cannot change.";
    delete_queue DELETE "/v1/queues/{queue}" queues QueueOwner;
        [202 "It is being drained, and deleted when its last message is settled.",
        204 "It is gone, with its messages."]
        [NOT_OWNER, QUEUE_NOT_FOUND, NOT_EMPTY, PRECONDITION_FAILED]
        "`discard`: its messages are gone at once and for good. `drain`: sends are refused, the \
        rest goes on until the last message is settled. `refuse`: only if it is empty.";
    purge_queue DELETE "/v1/queues/{queue}/messages" queues Right("manage");
        [200 "How many messages were taken out."] [FORBIDDEN, QUEUE_NOT_FOUND]
        "Takes out everything that was acknowledged to its sender before the call, leased and \
        delayed messages and dead letters too, and nothing that is sent after the answer.";
    redrive_queue POST "/v1/queues/{queue}/redrives" queues Right("manage");
        body [200 "How many dead letters are ready again."] [FORBIDDEN, QUEUE_NOT_FOUND]
        "The oldest first, as if they had never failed. Repeat until `remaining_count` is 0.";
    list_queue_grants GET "/v1/queues/{queue}/grants" queues QueueOwner;
        [200 "A page of grants."] [NOT_OWNER, QUEUE_NOT_FOUND] "";
    put_queue_grant PUT "/v1/queues/{queue}/grants/{username}" queues QueueOwner;
        body [200 "The grant."] [NOT_OWNER, QUEUE_NOT_FOUND, USER_NOT_FOUND, QUOTA]
        "Replaces what that user was granted before.";
    delete_queue_grant DELETE "/v1/queues/{queue}/grants/{username}" queues QueueOwner;
        [204 "There is no such grant, or none any more."]
        [NOT_OWNER, QUEUE_NOT_FOUND, USER_NOT_FOUND] "";

    send_messages POST "/v1/queues/{queue}/messages" messages Right("send");
        body [201 "At least one message is stored; each has its result."]
        [FORBIDDEN, QUEUE_NOT_FOUND, DRAINING, IDEMPOTENCY_MISMATCH, QUOTA]
        "`quorum`: on disk on a majority before the answer. `all`: waits up to 5 seconds for the \
        others too. A request of which nothing is stored is never a success: it is the problem \
        of its first message. Repeat a request under the same `Idempotency-Key`: what is stored already \
        is a `duplicate` with the same id, the rest is stored now.";
    browse_messages GET "/v1/queues/{queue}/messages" messages Right("browse");
        [200 "A page of messages, in dispatch order."] [FORBIDDEN, QUEUE_NOT_FOUND]
        "Changes nothing. At most 8 MiB of bodies are looked at for one page: it may be shorter \
        than asked for, even empty, and have a next one.";
    get_message GET "/v1/queues/{queue}/messages/{message_id}" messages Right("browse");
        [200 "The message, with its body."] [FORBIDDEN, QUEUE_NOT_FOUND, MESSAGE_NOT_FOUND]
        "Changes nothing. `explanation` says why it is or is not handed out.";
    delete_message DELETE "/v1/queues/{queue}/messages/{message_id}" messages Right("manage");
        [204 "The message is gone, now or before."]
        [FORBIDDEN, QUEUE_NOT_FOUND, MESSAGE_NOT_FOUND]
        "Takes it out, delayed and leased too. Only what is no id at all is not found.";
    receive_messages POST "/v1/queues/{queue}/leases" messages Right("receive");
        body [200 "Messages under lease; none when the queue had none."]
        [FORBIDDEN, QUEUE_NOT_FOUND, IN_FLIGHT_LIMIT]
        "A message is yours until its lease ends; then it is ready again. At most 8 MiB of bodies \
        come at once, and always at least one message.";
    stream_messages GET "/v1/queues/{queue}/stream" messages Right("receive");
        [200 "Server-sent events, for as long as you listen."] [FORBIDDEN, QUEUE_NOT_FOUND]
        "Messages come by themselves: `event: message` with one `ReceivedMessage` as JSON in \
        `data`, its id in `id`; a comment every 15 seconds; `event: closing` before the node ends \
        it. Settle by the routes below: at most `max_in_flight` messages are unsettled at a time. \
        When the connection ends, unsettled messages are released at once and count a failure \
        each; release them first to hand them back.";
    ack_message DELETE "/v1/queues/{queue}/leases/{receipt}" messages Right("receive");
        [204 "The message is settled for good, now or before."]
        [FORBIDDEN, QUEUE_NOT_FOUND, LEASE_LOST, RECEIPT_INVALID]
        "After the lease has expired it still counts, unless another has begun.";
    extend_lease PATCH "/v1/queues/{queue}/leases/{receipt}" messages Right("receive");
        body [200 "The lease as extended."]
        [FORBIDDEN, QUEUE_NOT_FOUND, LEASE_LOST, RECEIPT_INVALID]
        "The receipt stays the same.";
    release_message POST "/v1/queues/{queue}/leases/{receipt}/releases" messages Right("receive");
        body [204 "The message is given back, now or before."]
        [FORBIDDEN, QUEUE_NOT_FOUND, LEASE_LOST, RECEIPT_INVALID] "";
    settle_messages POST "/v1/queues/{queue}/settlements" messages Right("receive");
        body [200 "The verdicts, in request order."] [FORBIDDEN, QUEUE_NOT_FOUND]
        "Keeps receipts out of the URL.";

    put_topic PUT "/v1/topics/{topic}" topics AnyUser;
        body etag [200 "It exists and is as you want it.", 201 "It is created."]
        [NAME_TAKEN, CONFIG_DIFFERS, QUOTA]
        "If it exists and you own or manage it, only the fields you give must match.";
    list_topics GET "/v1/topics" topics AnyUser;
        [200 "A page of the topics that you may see, by name."] []
        "Without `stats`, unless `include=stats` asks for them.";
    get_topic GET "/v1/topics/{topic}" topics AnyTopicRight;
        etag [200 "The topic."] [FORBIDDEN, TOPIC_NOT_FOUND] "";
    update_topic PATCH "/v1/topics/{topic}" topics TopicRight("manage");
        body etag [200 "The topic as changed."]
        [FORBIDDEN, TOPIC_NOT_FOUND, PRECONDITION_FAILED]
        "Fields that are absent stay. `replicas` cannot change.";
    delete_topic DELETE "/v1/topics/{topic}" topics TopicOwner;
        [204 "It is gone, with its subscriptions and what they had not settled."]
        [NOT_OWNER, TOPIC_NOT_FOUND, NOT_EMPTY, PRECONDITION_FAILED]
        "What was delivered into queues stays there. `refuse`: only if no message is left.";
    list_topic_grants GET "/v1/topics/{topic}/grants" topics TopicOwner;
        [200 "A page of grants."] [NOT_OWNER, TOPIC_NOT_FOUND] "";
    put_topic_grant PUT "/v1/topics/{topic}/grants/{username}" topics TopicOwner;
        body [200 "The grant."] [NOT_OWNER, TOPIC_NOT_FOUND, USER_NOT_FOUND, QUOTA]
        "Replaces what that user was granted before. Without a grant only the owner publishes.";
    delete_topic_grant DELETE "/v1/topics/{topic}/grants/{username}" topics TopicOwner;
        [204 "There is no such grant, or none any more."]
        [NOT_OWNER, TOPIC_NOT_FOUND, USER_NOT_FOUND] "";

    publish_messages POST "/v1/topics/{topic}/messages" topics TopicRight("publish");
        body [201 "At least one message is stored; each has its result."]
        [FORBIDDEN, TOPIC_NOT_FOUND, UNROUTABLE, IDEMPOTENCY_MISMATCH, QUOTA]
        "Each message reaches every subscription that matches, or none. A topic without \
        subscriptions keeps nothing. A request of which nothing is stored is never a success.";

    put_subscription PUT "/v1/topics/{topic}/subscriptions/{subscription}" subscriptions
        TopicRight("subscribe");
        body etag [200 "It exists and is as you want it.", 201 "It is created."]
        [FORBIDDEN, TOPIC_NOT_FOUND, QUEUE_NOT_FOUND, NAME_TAKEN, CONFIG_DIFFERS, DRAINING, QUOTA]
        "Whatever is published after the answer reaches it. With `deliver_to` the messages are         moved into that queue, which needs the right `send` there. If it exists and is yours, only         the fields you give must match.";
    list_subscriptions GET "/v1/topics/{topic}/subscriptions" subscriptions AnyUser;
        [200 "A page of subscriptions, by name."] [TOPIC_NOT_FOUND]
        "The topic's owner sees all, others their own. Without `stats`: look at one to see them.";
    get_subscription GET "/v1/topics/{topic}/subscriptions/{subscription}" subscriptions Subscriber;
        etag [200 "The subscription."] [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND]
        "A creator who loses `subscribe`, or `send` on the queue, has it `suspended`: nothing is         delivered, and messages wait until they expire.";
    update_subscription PATCH "/v1/topics/{topic}/subscriptions/{subscription}" subscriptions
        Creator;
        body etag [200 "The subscription as changed."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, PRECONDITION_FAILED]
        "Fields that are absent stay. `filter`, `start` and `deliver_to` cannot change.";
    delete_subscription DELETE "/v1/topics/{topic}/subscriptions/{subscription}" subscriptions
        Subscriber;
        [204 "It is gone, and what it had not settled is gone for it only."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, PRECONDITION_FAILED] "";

    browse_subscription_messages
        GET "/v1/topics/{topic}/subscriptions/{subscription}/messages"
        subscriptions Creator;
        [200 "A page of messages, in dispatch order."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, DELIVERS_TO_QUEUE]
        "As browsing a queue.";
    purge_subscription DELETE "/v1/topics/{topic}/subscriptions/{subscription}/messages"
        subscriptions Creator;
        [200 "How many messages it skipped."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, DELIVERS_TO_QUEUE]
        "Skips to now: what was published before is done with for this subscription.";
    get_subscription_message
        GET "/v1/topics/{topic}/subscriptions/{subscription}/messages/{message_id}"
        subscriptions Creator;
        [200 "The message, with its body."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, DELIVERS_TO_QUEUE, MESSAGE_NOT_FOUND]
        "Changes nothing. `explanation` says why it is or is not handed out.";
    stream_subscription_messages GET "/v1/topics/{topic}/subscriptions/{subscription}/stream"
        subscriptions Creator;
        [200 "Server-sent events, for as long as you listen."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, DELIVERS_TO_QUEUE]
        "As streaming from a queue.";
    receive_subscription_messages POST "/v1/topics/{topic}/subscriptions/{subscription}/leases"
        subscriptions Creator;
        body [200 "Messages under lease; none when the subscription had none."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, DELIVERS_TO_QUEUE, IN_FLIGHT_LIMIT]
        "As receiving from a queue.";
    ack_subscription_message
        DELETE "/v1/topics/{topic}/subscriptions/{subscription}/leases/{receipt}"
        subscriptions Creator;
        [204 "The message is settled for this subscription, now or before."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, DELIVERS_TO_QUEUE, LEASE_LOST,
        RECEIPT_INVALID]
        "After the lease has expired it still counts, unless another has begun.";
    extend_subscription_lease
        PATCH "/v1/topics/{topic}/subscriptions/{subscription}/leases/{receipt}"
        subscriptions Creator;
        body [200 "The lease as extended."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, DELIVERS_TO_QUEUE, LEASE_LOST,
        RECEIPT_INVALID]
        "The receipt stays the same.";
    release_subscription_message
        POST "/v1/topics/{topic}/subscriptions/{subscription}/leases/{receipt}/releases"
        subscriptions Creator;
        body [204 "The message is given back, now or before."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, DELIVERS_TO_QUEUE, LEASE_LOST,
        RECEIPT_INVALID]
        "";
    settle_subscription_messages
        POST "/v1/topics/{topic}/subscriptions/{subscription}/settlements"
        subscriptions Creator;
        body [200 "The verdicts, in request order."]
        [NOT_OWNER, TOPIC_NOT_FOUND, SUBSCRIPTION_NOT_FOUND, DELIVERS_TO_QUEUE]
        "Keeps receipts out of the URL.";

    get_liveness GET "/livez" operations Nobody; [200 "It runs."] [TOO_LARGE] "";
    get_readiness GET "/readyz" operations Nobody;
        [200 "It takes requests."] [TOO_LARGE, STARTING, NOT_READY, NOT_A_MEMBER] "";
    get_metrics GET "/metrics" operations Nobody; [200 "The numbers."] [TOO_LARGE] "";
}

/// The row of an operation id.
#[must_use]
pub fn by_id(id: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole() {
        let ids: std::collections::BTreeSet<_> = OPERATIONS.iter().map(|o| o.id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
        for row in OPERATIONS {
            assert!(TAGS.iter().any(|(tag, _)| *tag == row.tag), "{}", row.id);
            assert!(!row.success.is_empty(), "{}", row.id);
            assert!(row.expects("internal") && row.expects("overloaded"));
        }
    }
}
