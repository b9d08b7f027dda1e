//! Sends requests: the connections, the framing of gRPC, compression, and how long an answer may take.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use weir_base::ErrorKind;
use weir_component::sink::SinkError;
use weir_component::spec::Fault;

use super::answer::{self, Answer};
use super::{OtlpCompression, OtlpProtocol, OtlpTls, Settings};

/// Answers are short: a status, and a message for people.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Connections that nobody uses for so long are closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The header that makes a repeated request harmless, where it is known; in gRPC the metadata of the same name.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const USER_AGENT_VALUE: HeaderValue = HeaderValue::from_static(concat!("weir/", env!("CARGO_PKG_VERSION")));

/// How connections are made, after its check.
#[derive(Clone)]
pub(super) struct Transport {
    connector: HttpsConnector<HttpConnector>,
    protocol: OtlpProtocol,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Transport").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl Transport {
    /// Checks what is trusted and shown; what is wrong is added to `faults`.
    pub(super) fn new(tls: Option<&OtlpTls>, protocol: OtlpProtocol, faults: &mut Vec<Fault>) -> Option<Self> {
        let config = client_config(tls, faults)?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let connector = match protocol {
            OtlpProtocol::Grpc => builder.enable_http2().wrap_connector(http),
            OtlpProtocol::Http => builder.enable_all_versions().wrap_connector(http),
        };
        Some(Self { connector, protocol })
    }

    fn client(&self) -> Http {
        let mut builder = HttpClient::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_MAX);
        builder.http2_only(self.protocol == OtlpProtocol::Grpc);
        builder.build(self.connector.clone())
    }
}

fn client_config(tls: Option<&OtlpTls>, faults: &mut Vec<Fault>) -> Option<rustls::ClientConfig> {
    let mut wrong = |name: &str, what: String| {
        let hint = "give the PEM itself, such as `${file:/etc/weir/ca.pem}`";
        faults.push(Fault::new(&format!("/tls/{name}"), what, hint));
    };
    let certificates = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let tls = tls.cloned().unwrap_or_default();
    let mut roots = rustls::RootCertStore::empty();
    match &tls.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => match certificates(pem) {
            Ok(found) if !found.is_empty() => {
                for certificate in found {
                    if let Err(error) = roots.add(certificate) {
                        wrong("ca", format!("an authority cannot be used: {error}"));
                    }
                }
            }
            _ => wrong("ca", "there is no certificate in it".to_owned()),
        },
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("ca", format!("TLS cannot be set up: {error}")))
        .ok()?
        .with_root_certificates(roots);
    match (&tls.certificate, &tls.key) {
        (None, None) => Some(builder.with_no_client_auth()),
        (Some(_), None) => {
            wrong("certificate", "a certificate needs its key".to_owned());
            None
        }
        (None, Some(_)) => {
            wrong("key", "a key needs its certificate".to_owned());
            None
        }
        (Some(certificate), Some(key)) => {
            let Some(chain) = certificates(certificate).ok().filter(|chain| !chain.is_empty()) else {
                wrong("certificate", "there is no certificate in it".to_owned());
                return None;
            };
            let Ok(key) = PrivateKeyDer::from_pem_slice(key.as_bytes()) else {
                wrong("key", "there is no private key in it".to_owned());
                return None;
            };
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| wrong("key", format!("it does not go with the certificate: {error}"))).ok()
        }
    }
}

type Http = HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A receiver.
pub(super) struct Client {
    settings: Arc<Settings>,
    http: Mutex<Http>,
}

impl Client {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        let http = Mutex::new(settings.transport.client());
        Self { settings, http }
    }

    /// Sends a request under a key.
    pub(super) async fn send(&self, key: &str, body: &[u8]) -> Answer {
        let host = self.settings.uri.authority().map(ToString::to_string).unwrap_or_default();
        let failed = |kind, message: String| Answer::Failed(SinkError::new(kind, message));
        let request = match self.request(key, body) {
            Ok(request) => request,
            Err(message) => return failed(ErrorKind::Internal, message),
        };
        let http = self.http.lock().clone();
        let asked = tokio::time::timeout(self.settings.timeout, ask(&http, request)).await;
        match asked {
            Ok(Ok((status, headers, trailers, answer))) => match self.settings.protocol {
                OtlpProtocol::Http => answer::of_http(status, &headers, &answer),
                OtlpProtocol::Grpc => answer::of_grpc(status, &headers, trailers.as_ref(), &answer),
            },
            Ok(Err(error)) => failed(ErrorKind::Transient, format!("cannot send to {host}: {error}")),
            Err(_) => {
                // Whoever does not answer on a connection does not answer the next request on it either.
                *self.http.lock() = self.settings.transport.client();
                let timeout = weir_base::quantity::Span(self.settings.timeout);
                failed(ErrorKind::Timeout, format!("{host} does not answer within {timeout}"))
            }
        }
    }

    fn request(&self, key: &str, body: &[u8]) -> Result<Request<Full<Bytes>>, String> {
        let Settings { uri, protocol, compression, headers, .. } = self.settings.as_ref();
        let failed = |error: &dyn std::fmt::Display| format!("cannot make a request: {error}");
        let body = compressed(*compression, body).map_err(|error| failed(&error))?;
        let encoding = match compression {
            OtlpCompression::None => None,
            OtlpCompression::Gzip => Some(HeaderValue::from_static("gzip")),
            OtlpCompression::Zstd => Some(HeaderValue::from_static("zstd")),
        };
        let mut own = HeaderMap::new();
        let body = match protocol {
            OtlpProtocol::Http => {
                own.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
                own.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                own.extend(encoding.map(|encoding| (CONTENT_ENCODING, encoding)));
                body
            }
            OtlpProtocol::Grpc => {
                own.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                own.insert(TE, HeaderValue::from_static("trailers"));
                let timeout = format!("{}m", self.settings.timeout.as_millis().clamp(1, 99_999_999));
                own.insert("grpc-timeout", HeaderValue::from_str(&timeout).map_err(|error| failed(&error))?);
                let mut message = vec![u8::from(encoding.is_some())];
                let length = u32::try_from(body.len()).map_err(|error| failed(&error))?;
                message.extend_from_slice(&length.to_be_bytes());
                message.extend_from_slice(&body);
                own.extend(encoding.map(|encoding| (GRPC_ENCODING, encoding)));
                message
            }
        };
        own.insert(USER_AGENT, USER_AGENT_VALUE);
        own.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).map_err(|error| failed(&error))?);
        let mut request = Request::builder().method(Method::POST).uri(uri.clone());
        if let Some(all) = request.headers_mut() {
            all.extend(headers.clone());
            all.extend(own);
        }
        request.body(Full::new(body.into())).map_err(|error| failed(&error))
    }
}

type Answered = (http::StatusCode, HeaderMap, Option<HeaderMap>, Bytes);

async fn ask(http: &Http, request: Request<Full<Bytes>>) -> Result<Answered, String> {
    let response = http.request(request).await.map_err(|error| weir_base::error::chain(&error))?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?;
    let trailers = body.trailers().cloned();
    Ok((parts.status, parts.headers, trailers, body.to_bytes()))
}

/// Fast rather than small: it is one of several costs of a request.
fn compressed(compression: OtlpCompression, body: &[u8]) -> std::io::Result<Vec<u8>> {
    match compression {
        OtlpCompression::None => Ok(body.to_vec()),
        OtlpCompression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(body)?;
            encoder.finish()
        }
        OtlpCompression::Zstd => zstd::bulk::compress(body, 1),
    }
}
