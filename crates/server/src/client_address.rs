//! Whose request it is, when proxies stand between the client and the socket.
//!
//! The socket's other end is the client unless it is a proxy the operator trusts. Then the
//! forwarding header is walked from the right, which is what the nearest proxy wrote, to the first
//! address that is not a trusted proxy: everything to the left of it came from that client itself
//! and may be invented.
//!
//! Invariant: without trusted proxies no header changes anything.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The one header that proxies in front of this server write. Others are ignored: a proxy that
/// writes one header passes the others through as the client sent them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, the usual one.
    #[default]
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
    /// `X-Real-IP`, one address.
    XRealIp,
}

/// Which proxies are believed, and what they write.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ForwardedHeader,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether it can be relied upon. Not if a trusted proxy wrote something that is no address:
    /// the address is then the proxy's, and rules that let certain addresses in must not apply.
    pub is_certain: bool,
}

/// Entries looked at. Nobody has more proxies of their own.
const ENTRIES_MAX: usize = 32;

impl TrustedProxies {
    /// Believes proxies within `networks`.
    pub fn new(networks: Vec<IpNet>, header: ForwardedHeader) -> Self {
        Self { networks, header }
    }

    /// Where a request comes from whose socket ends at `peer`.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let peer = peer.to_canonical();
        let mut client = ClientAddress { address: peer, is_certain: true };
        if !self.trusts(peer) {
            return client;
        }
        for entry in self.entries(headers).into_iter().rev().take(ENTRIES_MAX) {
            let Some(address) = entry.and_then(parse_entry) else {
                return ClientAddress { address: peer, is_certain: false };
            };
            client.address = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Every entry of every line of the header, in order; none for one that cannot be read.
    fn entries<'a>(&self, headers: &'a HeaderMap) -> Vec<Option<&'a str>> {
        let name = match self.header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
            ForwardedHeader::XRealIp => "x-real-ip",
        };
        let mut entries = Vec::new();
        for line in headers.get_all(name) {
            let Ok(line) = line.to_str() else {
                entries.push(None);
                continue;
            };
            // No address has a comma, so quotes need no care here.
            for entry in line.split(',') {
                entries.push(match self.header {
                    ForwardedHeader::Forwarded => forwarded_for(entry),
                    _ => Some(entry),
                });
            }
        }
        entries
    }
}

/// The `for` parameter of an element of `Forwarded`, without its quotes.
fn forwarded_for(element: &str) -> Option<&str> {
    let value = element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    })?;
    match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"'),
        None => Some(value),
    }
}

/// An address with or without a port, an IPv6 address with or without brackets.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse::<IpAddr>().ok().or_else(|| Some(entry.parse::<SocketAddr>().ok()?.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests;
