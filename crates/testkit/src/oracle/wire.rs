//! HTTP/1.1 and gRPC as a stranger would speak them: hyper, and not a line of Weir's own code.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};

const TIMEOUT: Duration = Duration::from_secs(20);

/// What came of a request.
#[derive(Debug)]
pub enum Answer {
    /// Success, with the body.
    Acknowledged(Bytes),
    /// A refusal that says "later".
    Later(String),
    /// No answer: nobody knows whether it happened.
    Unanswered(String),
}

/// A reply, whatever it says.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// All of the body.
    pub body: Bytes,
}

impl Reply {
    /// For messages: the status and the beginning of the body.
    pub fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body[..self.body.len().min(500)]))
    }
}

/// A pooled HTTP/1.1 client.
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }
}

impl Http {
    /// The status of a GET, if anybody answers.
    pub async fn get_status(&self, address: &str, path: &str) -> Option<u16> {
        let request = Request::get(format!("http://{address}{path}")).body(Full::default()).ok()?;
        let response = tokio::time::timeout(TIMEOUT, self.client.request(request)).await.ok()?.ok()?;
        Some(response.status().as_u16())
    }

    /// Sends a request; the inner error says why there was no reply.
    pub async fn request(
        &self,
        method: Method,
        address: &str,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> Result<Result<Reply, String>> {
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| describe(&error))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| describe(&error))?.to_bytes();
            Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
        };
        let replied = tokio::time::timeout(TIMEOUT, exchange).await;
        Ok(replied.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}"))))
    }

    /// Posts a body. A refusal that will not change is an error.
    pub async fn post(&self, address: &str, path: &str, headers: &[(&str, String)], body: Bytes) -> Result<Answer> {
        let Reply { status, body, .. } = match self.request(Method::POST, address, path, headers, body).await? {
            Ok(reply) => reply,
            Err(problem) => return Ok(Answer::Unanswered(problem)),
        };
        let text = || format!("{status} {}", String::from_utf8_lossy(&body));
        match status {
            200..=299 => Ok(Answer::Acknowledged(body)),
            429 | 503 | 507 => Ok(Answer::Later(text())),
            // An internal error says nothing about what was stored; while power fails it is expected.
            500 | 502 | 504 => Ok(Answer::Unanswered(text())),
            _ => bail!("POST {path} was refused for good: {}", text()),
        }
    }

    /// Posts JSON as somebody and returns JSON.
    pub async fn json(
        &self,
        address: &str,
        path: &str,
        headers: &[(&str, String)],
        body: &serde_json::Value,
    ) -> Result<serde_json::Value> {
        let mut headers = headers.to_vec();
        headers.push((header::CONTENT_TYPE.as_str(), "application/json".to_owned()));
        match self.post(address, path, &headers, serde_json::to_vec(body)?.into()).await? {
            Answer::Acknowledged(body) => serde_json::from_slice(&body).with_context(|| format!("answer of {path}")),
            Answer::Later(reason) | Answer::Unanswered(reason) => bail!("POST {path}: {reason}"),
        }
    }
}

/// One gRPC connection; made new when it breaks.
#[derive(Default)]
pub struct Grpc {
    sender: Option<hyper::client::conn::http2::SendRequest<Full<Bytes>>>,
}

impl Grpc {
    /// A unary call. `message` is the encoded protobuf.
    pub async fn call(
        &mut self,
        address: &str,
        method: &str,
        headers: &[(&str, String)],
        message: &[u8],
    ) -> Result<Answer> {
        let mut body = BytesMut::with_capacity(message.len() + 5);
        // Not compressed, then the length: the framing of the gRPC specification.
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len())?);
        body.extend_from_slice(message);
        let mut request = Request::post(format!("http://{address}{method}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.freeze()))?;
        let answer = tokio::time::timeout(TIMEOUT, self.exchange(address, request)).await;
        let (status, words, body) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.sender = None;
                return Ok(Answer::Unanswered(format!("{error:#}")));
            }
            Err(_) => {
                self.sender = None;
                return Ok(Answer::Unanswered(format!("no answer within {TIMEOUT:?}")));
            }
        };
        match status {
            0 => Ok(Answer::Acknowledged(body.slice(body.len().min(5)..))),
            // RESOURCE_EXHAUSTED, UNAVAILABLE: later. CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, DATA_LOSS: who knows.
            8 | 14 => Ok(Answer::Later(format!("grpc-status {status} {words}"))),
            1 | 2 | 4 | 13 | 15 => Ok(Answer::Unanswered(format!("grpc-status {status} {words}"))),
            _ => bail!("{method} was refused for good: grpc-status {status} {words}"),
        }
    }

    async fn exchange(&mut self, address: &str, request: Request<Full<Bytes>>) -> Result<(u8, String, Bytes)> {
        if self.sender.as_ref().is_none_or(hyper::client::conn::http2::SendRequest::is_closed) {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (sender, connection) = handshake.await?;
            // It ends with the connection; errors reach the request.
            tokio::spawn(async move { drop(connection.await) });
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().context("no connection")?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "HTTP status {} where gRPC has 200", response.status());
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        // A call that fails at once has its status in the headers.
        let trailers = body.trailers().cloned().unwrap_or(head.headers);
        let text = |name| trailers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let status = text("grpc-status").and_then(|status| status.parse().ok()).context("no grpc-status")?;
        Ok((status, text("grpc-message").unwrap_or_default().to_owned(), body.to_bytes()))
    }
}

fn describe(error: &dyn std::error::Error) -> String {
    weir_base::error::chain(error)
}
