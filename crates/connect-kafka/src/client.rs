//! What source and sink have in common: how a cluster is reached, what its errors mean, and threads for calls
//! that block.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Statistics, TopicPartitionList};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_base::clock::SystemClock;
use weir_base::secret::Secret;
use weir_base::{Clock, ErrorKind};
use weir_component::spec::Fault;

use crate::source::Rebalances;

/// How long one question to the cluster may take before it counts as unreachable.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the cluster may be without a leader of a partition.
pub(crate) const LEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long after a failure a question is asked again.
const ASKED_EVERY: Duration = Duration::from_millis(200);

/// How brokers are reached by TLS, for which Weir has to be built with the feature `kafka-tls`. Certificates and keys are
/// PEM; write them as `${file:PATH}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authorities to trust. Default: those of the system.
    pub ca: Option<String>,
    /// The certificate of this client, for brokers that want one.
    pub certificate: Option<String>,
    /// The key of that certificate.
    pub key: Option<String>,
}

/// How a client says who it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is shown to the broker. `plain` sends it as it is, so it belongs behind TLS or in a network where
    /// nobody listens. `scram_sha_256` and `scram_sha_512` do not send it; Weir has to be built with the feature
    /// `kafka-tls` for them.
    pub mechanism: SaslMechanism,
    /// The name of the user.
    pub username: String,
    /// The password. Write it as `${env:NAME}` or `${file:PATH}`, so that it is not in the document.
    pub password: String,
}

/// Ways to show a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaslMechanism {
    /// As it is.
    Plain,
    /// By a proof that does not contain it, with SHA-256.
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

impl SaslMechanism {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Whether the library was built with OpenSSL.
const HAS_TLS: bool = cfg!(feature = "tls");
const TLS_HINT: &str = "take one that was built with `--features kafka-tls`, which needs OpenSSL";

/// How a cluster is reached, after its check.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    brokers: String,
    credentials: Option<(SaslMechanism, String, Secret<String>)>,
    tls: Option<Certificates>,
}

/// What a client trusts and shows.
#[derive(Clone, Debug)]
struct Certificates {
    ca: Option<String>,
    own: Option<(String, Secret<String>)>,
}

impl Certificates {
    fn new(tls: &Tls, faults: &mut Vec<Fault>) -> Self {
        if !HAS_TLS {
            faults.push(Fault::new("/tls", "this Weir cannot speak TLS with Kafka", TLS_HINT));
        }
        for (name, text) in [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)] {
            if text.as_ref().is_some_and(|text| !text.contains("-----BEGIN ")) {
                let hint = "give the PEM itself, such as `${file:/etc/kafka/ca.pem}`";
                faults.push(Fault::new(&format!("/tls/{name}"), "it is no PEM", hint));
            }
        }
        let own = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), Secret::new(key.clone()))),
            (None, None) => None,
            (Some(_), None) => {
                faults.push(Fault::new("/tls/certificate", "a certificate needs its key", "add `key`"));
                None
            }
            (None, Some(_)) => {
                faults.push(Fault::new("/tls/key", "a key needs its certificate", "add `certificate`"));
                None
            }
        };
        Self { ca: tls.ca.clone(), own }
    }
}

impl Cluster {
    /// Checks the settings; what is wrong is added to `faults`.
    pub(crate) fn new(brokers: &str, tls: Option<&Tls>, sasl: Option<&Sasl>, faults: &mut Vec<Fault>) -> Self {
        let list: Vec<&str> = brokers.split(',').map(str::trim).collect();
        for broker in &list {
            if !is_address(broker) {
                let message = format!("`{broker}` is not the address of a broker");
                faults.push(Fault::new("/brokers", message, "a list such as `k1:9092,k2:9092`"));
            }
        }
        if let Some(sasl) = sasl
            && sasl.username.is_empty()
        {
            faults.push(Fault::new("/sasl/username", "there is no name", ""));
        }
        if let Some(sasl) = sasl
            && sasl.mechanism != SaslMechanism::Plain
            && !HAS_TLS
        {
            let message = format!("this Weir cannot do {}", sasl.mechanism.as_str());
            faults.push(Fault::new("/sasl/mechanism", message, TLS_HINT));
        }
        let credentials = sasl.map(|sasl| (sasl.mechanism, sasl.username.clone(), Secret::new(sasl.password.clone())));
        Self { brokers: list.join(","), credentials, tls: tls.map(|tls| Certificates::new(tls, faults)) }
    }

    /// The brokers, for people.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Settings every client has.
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "weir")
            .set("allow.auto.create.topics", "false")
            // A broker that comes back is found soon.
            .set("reconnect.backoff.max.ms", "2000")
            .set("socket.keepalive.enable", "true")
            .set_log_level(RDKafkaLogLevel::Warning);
        let protocol = match (&self.tls, &self.credentials) {
            (None, None) => "plaintext",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), None) => "ssl",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some((mechanism, username, password)) = &self.credentials {
            config
                .set("sasl.mechanism", mechanism.as_str())
                .set("sasl.username", username)
                .set("sasl.password", password.expose());
        }
        if let Some(Certificates { ca, own }) = &self.tls {
            if let Some(ca) = ca {
                config.set("ssl.ca.pem", ca);
            }
            if let Some((certificate, key)) = own {
                config.set("ssl.certificate.pem", certificate).set("ssl.key.pem", key.expose());
            }
        }
        config
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// What is wrong with the name of a topic.
pub(crate) fn topic_fault(topic: &str, pointer: &str) -> Option<Fault> {
    let is_known = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let is_name =
        !topic.is_empty() && topic.len() <= 249 && topic != "." && topic != ".." && topic.chars().all(is_known);
    let hint = "a name has at most 249 letters, digits, `.`, `_` and `-`";
    (!is_name).then(|| Fault::new(pointer, format!("`{topic}` is not the name of a topic"), hint))
}

/// What a client was told by the library aside from answers.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The newest trouble, which says more than "timed out".
    trouble: Mutex<Option<(ErrorKind, String)>>,
    /// The newest statistics.
    pub(crate) statistics: Mutex<Option<Statistics>>,
    /// What the group of a consumer gives and takes away.
    pub(crate) rebalances: Rebalances,
}

impl Told {
    /// What a failed call comes down to: the trouble that was told last says more than that time is up.
    pub(crate) fn explain(&self, error: &KafkaError) -> (ErrorKind, String) {
        let (kind, text) = (kind_of(error), text_of(error));
        if !matches!(kind, ErrorKind::Transient | ErrorKind::Timeout) {
            return (kind, text);
        }
        match self.trouble.lock().clone() {
            Some((worse, reason)) if !matches!(worse, ErrorKind::Timeout) => (worse, reason),
            Some((_, reason)) => (kind, reason),
            None => (kind, text),
        }
    }

    /// Forgets what was told: something has worked.
    pub(crate) fn well(&self) {
        *self.trouble.lock() = None;
    }
}

/// Receives what the library tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context(pub(crate) Arc<Told>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes as an error too.
        tracing::debug!(?level, facility, "{message}");
    }

    fn stats(&self, statistics: Statistics) {
        *self.0.statistics.lock() = Some(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "{reason}");
        let kind = kind_of(&error);
        let mut trouble = self.0.trouble.lock();
        // That no broker is left says less than why.
        let is_summary = error.rdkafka_error_code() == Some(Code::AllBrokersDown);
        if !(is_summary && trouble.is_some()) {
            *trouble = Some((kind, plain(reason)));
        }
    }
}

impl rdkafka::consumer::ConsumerContext for Context {
    /// What is given is taken, and what is taken away is given back, when the source is ready for it.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.0.rebalances.note(consumer, code, list);
    }
}

/// A reason without the name of the thread of the library in front.
fn plain(reason: &str) -> String {
    let reason = reason.split_once("]: ").map_or(reason, |(_, rest)| rest);
    reason.trim().trim_end_matches('.').to_owned()
}

/// What kind of error it is.
pub(crate) fn kind_of(error: &KafkaError) -> ErrorKind {
    match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => ErrorKind::Config,
        KafkaError::Nul(_) => ErrorKind::Config,
        error => error.rdkafka_error_code().map_or(ErrorKind::Transient, kind_of_code),
    }
}

/// What kind of error a code of the library or of a broker is.
pub(crate) fn kind_of_code(code: Code) -> ErrorKind {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => ErrorKind::NotFound,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => ErrorKind::Forbidden,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => ErrorKind::Unauthenticated,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => ErrorKind::TooLarge,
        Code::InvalidRecord => ErrorKind::Input,
        Code::InvalidArgument
        | Code::InvalidTransactionTimeout
        | Code::InvalidTopic
        | Code::InvalidRequiredAcks
        | Code::UnsupportedFeature
        | Code::PolicyViolation => ErrorKind::Config,
        Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced => ErrorKind::Conflict,
        Code::AutoOffsetReset | Code::OffsetOutOfRange => ErrorKind::NotFound,
        Code::OperationTimedOut | Code::RequestTimedOut | Code::MessageTimedOut => ErrorKind::Timeout,
        _ => ErrorKind::Transient,
    }
}

/// What a broker or the library says.
pub(crate) fn text_of(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => plain(&error.string()),
        KafkaError::ClientConfig(_, message, key, value) => format!("{message} ({key} = {value})"),
        KafkaError::ClientCreation(message) => plain(message),
        error => error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| plain(&text_of_code(code))),
    }
}

/// The sentence of a code: `Code` prints its name in front of it.
pub(crate) fn text_of_code(code: Code) -> String {
    let text = code.to_string();
    let text = text.split_once(" (").map_or(text.as_str(), |(_, rest)| rest.trim_end_matches(')'));
    text.strip_prefix("Broker: ").or_else(|| text.strip_prefix("Local: ")).unwrap_or(text).to_lowercase()
}

/// Asks the cluster until it answers, or until it had time enough. Blocks.
pub(crate) fn ask<T>(question: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    ask_for(ANSWER_TIMEOUT, question)
}

/// The same with another patience: a partition whose broker has gone gets another one after a while.
pub(crate) fn ask_for<T>(
    patience: Duration,
    mut question: impl FnMut() -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    let clock = SystemClock::new();
    let begun = clock.monotonic();
    loop {
        match question() {
            Err(error)
                if matches!(kind_of(&error), ErrorKind::Transient | ErrorKind::Timeout)
                    && clock.monotonic().saturating_sub(begun) < patience =>
            {
                std::thread::sleep(ASKED_EVERY);
            }
            answer => return answer,
        }
    }
}

/// Runs a call that blocks on a thread of its own. If nobody waits for the answer any more, the call goes on
/// and its answer is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    name: &str,
    call: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name(format!("kafka-{name}")).spawn(move || {
        // Nobody may be waiting any more.
        let _ = answer.send(call());
    })?;
    answered.await.map_err(|_| std::io::Error::other(format!("the thread of {name} panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_brokers() {
        for (brokers, expected) in [
            ("k1:9092", 0),
            (" k1:9092 , k2:9092", 0),
            ("[::1]:9092", 0),
            ("k1", 1),
            ("k1:9092,", 1),
            ("k1:0,k 2:1", 2),
        ] {
            let mut faults = Vec::new();
            Cluster::new(brokers, None, None, &mut faults);
            assert_eq!(faults.len(), expected, "{brokers}: {faults:?}");
        }
    }

    #[test]
    fn errors_have_a_kind_and_a_sentence() {
        for (code, kind, text) in [
            (Code::UnknownTopicOrPartition, ErrorKind::NotFound, "unknown topic or partition"),
            (Code::Authentication, ErrorKind::Unauthenticated, "authentication failure"),
            (Code::TopicAuthorizationFailed, ErrorKind::Forbidden, "topic authorization failed"),
            (Code::BrokerTransportFailure, ErrorKind::Transient, "broker transport failure"),
            (
                Code::ProducerFenced,
                ErrorKind::Conflict,
                "there is a newer producer with the same transactionalid which fences the current one",
            ),
        ] {
            assert_eq!((kind_of_code(code), text_of_code(code).as_str()), (kind, text), "{code:?}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let sasl = Sasl { mechanism: SaslMechanism::Plain, username: "u".into(), password: "hush".into() };
        let (certificate, key) = (Some("-----BEGIN C".to_owned()), Some("-----BEGIN hush".to_owned()));
        let tls = Tls { ca: None, certificate, key };
        let cluster = Cluster::new("k:1", Some(&tls), Some(&sasl), &mut Vec::new());
        assert!(!format!("{cluster:?}").contains("hush"));
    }

    #[test]
    fn what_was_not_built_in_is_said() {
        let sasl = |mechanism| Sasl { mechanism, username: "u".into(), password: "p".into() };
        let check = |tls: Option<Tls>, mechanism, expected: &[&str]| {
            let mut faults = Vec::new();
            Cluster::new("k:1", tls.as_ref(), Some(&sasl(mechanism)), &mut faults);
            let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
            assert_eq!(pointers, expected, "{tls:?}: {faults:?}");
        };
        let missing = |pointer| if HAS_TLS { vec![] } else { vec![pointer] };
        check(None, SaslMechanism::Plain, &[]);
        check(None, SaslMechanism::ScramSha512, &missing("/sasl/mechanism"));
        check(Some(Tls::default()), SaslMechanism::Plain, &missing("/tls"));
        let wrong = Tls { ca: Some("/etc/ca.pem".to_owned()), key: Some("-----BEGIN K".to_owned()), certificate: None };
        let found = [missing("/tls"), vec!["/tls/ca", "/tls/key"]].concat();
        check(Some(wrong), SaslMechanism::Plain, &found);
    }

    #[test]
    fn a_connection_is_as_it_was_wished_for() {
        let protocol = |tls: Option<&Tls>, sasl: Option<&Sasl>| {
            let config = Cluster::new("k:1", tls, sasl, &mut Vec::new()).config();
            config.get("security.protocol").map(str::to_owned)
        };
        let sasl = Sasl { mechanism: SaslMechanism::ScramSha256, username: "u".into(), password: "p".into() };
        let tls = Tls::default();
        for (tls, sasl, expected) in [
            (None, None, "plaintext"),
            (None, Some(&sasl), "sasl_plaintext"),
            (Some(&tls), None, "ssl"),
            (Some(&tls), Some(&sasl), "sasl_ssl"),
        ] {
            assert_eq!(protocol(tls, sasl).as_deref(), Some(expected));
        }
    }
}
