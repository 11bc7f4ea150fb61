//! A row per route.

/// One route.
#[derive(Debug)]
pub struct Row {
    /// Its name, and its operation id.
    pub name: &'static str,
    /// Its method.
    pub method: &'static str,
    /// Its path.
    pub path: &'static str,
    /// What it does.
    pub route: MomRoute,
    /// Its parameters; all are needed.
    pub parameters: &'static [Parameter],
    /// The status of a success, and what its body is.
    pub success: (u16, Schema),
    /// The other statuses it answers of itself, with their meaning, in the order they are checked.
    pub refused: &'static [(u16, &'static str)],
    /// What it does, in a line.
    pub summary: &'static str,
    /// What else is to be known.
    pub about: &'static str,
}

impl Row {
    /// Whether it needs a session (or other credentials).
    #[must_use]
    pub fn is_private(&self) -> bool {
        matches!(self.route, MomRoute::Of(_))
    }

    /// Whether it is called for every message.
    #[must_use]
    pub fn is_about_messages(&self) -> bool {
        matches!(
            self.route,
            MomRoute::Of(
                UserRoute::PublishMessage | UserRoute::SendMessage | UserRoute::ConsumeMessage
            )
        )
    }
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomRoute {
    /// Registers a user.
    RegisterUser,
    /// Logs a user in.
    LoginUser,
    /// Logs a user out, if one is in.
    LogoutUser,
    /// Something for a user.
    Of(UserRoute),
}

/// What a route does for a user: what its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserRoute {
    CreateQueue,
    CreateTopic,
    SubscribeToTopic,
    VinculateQueue,
    PublishMessage,
    SendMessage,
    GetQueues,
    GetTopics,
    ConsumeMessage,
    DeleteQueue,
    DeleteTopic,
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// An example that works.
    pub example: &'static str,
}

/// The body of a success: the schema of that name after `Mom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    Answer,
    Session,
    Sent,
    Queues,
    Topics,
    Message,
}

const fn parameter(name: &'static str, about: &'static str, example: &'static str) -> Parameter {
    Parameter { name, about, example }
}

const USERNAME: Parameter = parameter("username", "The user's name.", "alice");
const PASSWORD: Parameter =
    parameter("password", "The password, of 8 to 256 characters.", "correct horse battery");
const QUEUE: Parameter = parameter("nameQueue", "The queue's name.", "orders");
const TOPIC: Parameter = parameter("nameTopic", "The topic's name.", "news");
const EXCHANGE: Parameter = parameter("nameExchange", "The exchange's name.", "sales");
const MESSAGE: Parameter = parameter("message", "The message, as text.", "hello");

const MISSING: (u16, &str) = (400, "A parameter is missing or unfit.");

/// The routes, in the document's order.
pub static ROWS: &[Row] = &[
    Row {
        name: "registerUser",
        method: "POST",
        path: "/registerUser",
        route: MomRoute::RegisterUser,
        parameters: &[USERNAME, PASSWORD],
        success: (201, Schema::Session),
        refused: &[MISSING, (403, "Registration is closed."), (409, "The name is taken.")],
        summary: "Register and log in",
        about: "Answers a session token, which is also set as the cookie `tertulia_session`.",
    },
    Row {
        name: "loginUser",
        method: "POST",
        path: "/loginUser",
        route: MomRoute::LoginUser,
        parameters: &[USERNAME, PASSWORD],
        success: (200, Schema::Session),
        refused: &[MISSING, (401, "The name or the password is wrong.")],
        summary: "Log in",
        about: "Answers a session token, which is also set as the cookie `tertulia_session`.",
    },
    Row {
        name: "logoutUser",
        method: "POST",
        path: "/logoutUser",
        route: MomRoute::LogoutUser,
        parameters: &[],
        success: (200, Schema::Answer),
        refused: &[],
        summary: "Log out",
        about: "Ends the session that the request carries. Without one it succeeds too.",
    },
    Row {
        name: "createQueue",
        method: "POST",
        path: "/createQueue",
        route: MomRoute::Of(UserRoute::CreateQueue),
        parameters: &[QUEUE],
        success: (200, Schema::Answer),
        refused: &[(400, "A parameter is missing or unfit, or the name is taken.")],
        summary: "Create a queue",
        about: "",
    },
    Row {
        name: "createTopic",
        method: "POST",
        path: "/createTopic",
        route: MomRoute::Of(UserRoute::CreateTopic),
        parameters: &[TOPIC],
        success: (200, Schema::Answer),
        refused: &[MISSING, (403, "The name is taken.")],
        summary: "Create a topic",
        about: "",
    },
    Row {
        name: "subscribeToTopic",
        method: "POST",
        path: "/subscribeToTopic",
        route: MomRoute::Of(UserRoute::SubscribeToTopic),
        parameters: &[TOPIC, QUEUE],
        success: (200, Schema::Answer),
        refused: &[
            (400, "A parameter is missing, there is no such topic, or you own no such queue."),
            (403, "You lack the right `subscribe`."),
            (409, "The queue has an association already."),
        ],
        summary: "Let a queue receive what is published on a topic",
        about: "In `/v1` terms: a subscription named like the queue, with `deliver_to`.",
    },
    Row {
        name: "vinculateQueue",
        method: "POST",
        path: "/vinculateQueue",
        route: MomRoute::Of(UserRoute::VinculateQueue),
        parameters: &[EXCHANGE, QUEUE],
        success: (200, Schema::Answer),
        refused: &[
            (400, "A parameter is missing or unfit, or you own no such queue."),
            (403, "The exchange's owner lets you not bind to it."),
            (409, "The queue has an association already."),
        ],
        summary: "Bind a queue to an exchange",
        about: "The first binding makes the exchange. In `/v1` terms exchange `e` is the topic \
            `exchange.e`, on which everyone may publish and subscribe until its owner says \
            otherwise.",
    },
    Row {
        name: "publishMessage",
        method: "POST",
        path: "/publishMessage",
        route: MomRoute::Of(UserRoute::PublishMessage),
        parameters: &[TOPIC, MESSAGE],
        success: (200, Schema::Sent),
        refused: &[
            (400, "A parameter is missing, or there is no such topic."),
            (403, "You lack the right `publish`."),
        ],
        summary: "Publish a message on a topic",
        about: "Answered once a majority of replicas has it on disk. `delivered_to` counts the \
            subscriptions that want it.",
    },
    Row {
        name: "sendMessage",
        method: "POST",
        path: "/sendMessage",
        route: MomRoute::Of(UserRoute::SendMessage),
        parameters: &[EXCHANGE, MESSAGE],
        success: (200, Schema::Sent),
        refused: &[
            (400, "A parameter is missing, or no queue is bound to that exchange."),
            (403, "The exchange's owner lets you not send to it."),
        ],
        summary: "Send a message to every queue of an exchange",
        about: "Answered once a majority of replicas has it on disk: every bound queue gets it, \
            or none.",
    },
    Row {
        name: "getQueues",
        method: "GET",
        path: "/getQueues",
        route: MomRoute::Of(UserRoute::GetQueues),
        parameters: &[],
        success: (200, Schema::Queues),
        refused: &[],
        summary: "List your queues",
        about: "",
    },
    Row {
        name: "getTopics",
        method: "GET",
        path: "/getTopics",
        route: MomRoute::Of(UserRoute::GetTopics),
        parameters: &[],
        success: (200, Schema::Topics),
        refused: &[],
        summary: "List your topics",
        about: "",
    },
    Row {
        name: "consumeMessage",
        method: "GET",
        path: "/consumeMessage",
        route: MomRoute::Of(UserRoute::ConsumeMessage),
        parameters: &[QUEUE],
        success: (200, Schema::Message),
        refused: &[MISSING, (403, "The queue is unknown or not yours.")],
        summary: "Take the first message of a queue",
        about: "It is acknowledged at once: an answer that gets lost loses the message. Use \
            `/v1` where that matters.",
    },
    Row {
        name: "deleteQueue",
        method: "DELETE",
        path: "/deleteQueue",
        route: MomRoute::Of(UserRoute::DeleteQueue),
        parameters: &[QUEUE],
        success: (200, Schema::Answer),
        refused: &[MISSING, (403, "The queue is unknown or not yours.")],
        summary: "Delete a queue with its messages",
        about: "Its association goes with it.",
    },
    Row {
        name: "deleteTopic",
        method: "DELETE",
        path: "/deleteTopic",
        route: MomRoute::Of(UserRoute::DeleteTopic),
        parameters: &[TOPIC],
        success: (200, Schema::Answer),
        refused: &[MISSING, (403, "The topic is unknown or not yours.")],
        summary: "Delete a topic with its associations",
        about: "Its queues stay.",
    },
];

/// The row of a request.
#[must_use]
pub fn row(method: &str, path: &str) -> Option<&'static Row> {
    let method = if method == "HEAD" { "GET" } else { method };
    ROWS.iter().find(|row| row.path == path && row.method == method)
}
