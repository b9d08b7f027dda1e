//! The smallest HTTP client that can ask a local server two questions: are you ready, and what do
//! your metrics say.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::Result;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The status and body of `GET path`.
pub(crate) fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let text = |error: std::io::Error| format!("http://{address}{path}: {error}");
    let socket = address.to_socket_addrs().map_err(text)?.next().ok_or_else(|| format!("{address}: no address"))?;
    let mut stream = TcpStream::connect_timeout(&socket, TIMEOUT).map_err(text)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
    // HTTP/1.0: the end of the connection is the end of the body, so no chunks have to be parsed.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\nconnection: close\r\n\r\n").map_err(text)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(text)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("http://{address}{path}: cut short"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| format!("http://{address}{path}: no HTTP status"))?, body.to_owned()))
}

/// The sum of all samples of a Prometheus metric whose labels contain `label`.
pub(crate) fn metric_sum(metrics: &str, name: &str, label: &str) -> f64 {
    metrics
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let fits = (labels.is_empty() || labels.starts_with('{')) && labels.contains(label);
            fits.then(|| value.parse::<f64>().ok()).flatten()
        })
        // `sum` of nothing is -0, which would be shown.
        .fold(0.0, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"stored\"} 5\na{x=\"2\",y=\"stored\"} 7\na{x=\"2\",y=\"rejected\"} 1\nab 9\nb 2\n";
        for (name, label, expected) in [("a", "stored", 12.0), ("a", "", 13.0), ("b", "", 2.0), ("c", "", 0.0)] {
            assert!((metric_sum(text, name, label) - expected).abs() < 1e-9, "{name} {label}");
        }
    }
}
