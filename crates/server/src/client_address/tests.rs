#![allow(clippy::unwrap_used, reason = "tests")]

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::{ForwardedHeader, TrustedProxies};

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn client(header: ForwardedHeader, peer: &str, lines: &[(&'static str, &str)]) -> String {
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec();
    let client = TrustedProxies::new(networks, header).client(peer.parse().unwrap(), &headers(lines));
    format!("{}{}", client.address, if client.is_certain { "" } else { " ?" })
}

#[test]
fn x_forwarded_for() {
    let xff = "x-forwarded-for";
    type Lines<'a> = &'a [(&'static str, &'a str)];
    let cases: &[(&str, Lines<'_>, &str)] = &[
        // Nobody is believed but the trusted.
        ("203.0.113.9", &[], "203.0.113.9"),
        ("203.0.113.9", &[(xff, "198.51.100.1")], "203.0.113.9"),
        ("::ffff:203.0.113.9", &[(xff, "198.51.100.1")], "203.0.113.9"),
        // A trusted proxy's word, also over IPv4 mapped into IPv6.
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &[(xff, "198.51.100.1")], "198.51.100.1"),
        ("::ffff:10.0.0.1", &[(xff, "::ffff:198.51.100.1")], "198.51.100.1"),
        // What the client invented stands to the left.
        ("10.0.0.1", &[(xff, "1.1.1.1, 198.51.100.1")], "198.51.100.1"),
        ("10.0.0.1", &[(xff, "1.1.1.1, 198.51.100.1, 10.2.2.2")], "198.51.100.1"),
        ("10.0.0.1", &[(xff, "10.9.9.9, 198.51.100.1,10.2.2.2")], "198.51.100.1"),
        // All lines count, in order.
        ("10.0.0.1", &[(xff, "1.1.1.1"), (xff, "198.51.100.1"), (xff, "10.2.2.2")], "198.51.100.1"),
        // Nothing but proxies: the farthest.
        ("10.0.0.1", &[(xff, "10.3.3.3, 10.2.2.2")], "10.3.3.3"),
        ("10.0.0.1", &[(xff, "198.51.100.1:4711")], "198.51.100.1"),
        ("10.0.0.1", &[(xff, "[2001:db8::7]:4711")], "2001:db8::7"),
        ("10.0.0.1", &[(xff, "2001:db8::7, fd00::1")], "2001:db8::7"),
        ("10.0.0.1", &[(xff, "[2001:db8::7]")], "2001:db8::7"),
        // What is no address makes the request the proxy's own; to the left of the client it does not matter.
        ("10.0.0.1", &[(xff, "unknown")], "10.0.0.1 ?"),
        ("10.0.0.1", &[(xff, "198.51.100.1, ")], "10.0.0.1 ?"),
        ("10.0.0.1", &[(xff, "198.51.100.256")], "10.0.0.1 ?"),
        ("10.0.0.1", &[(xff, "')--, 198.51.100.1")], "198.51.100.1"),
        // The header that is not configured says nothing.
        ("10.0.0.1", &[("forwarded", "for=198.51.100.1"), ("x-real-ip", "198.51.100.2")], "10.0.0.1"),
    ];
    for (peer, lines, expected) in cases {
        assert_eq!(client(ForwardedHeader::XForwardedFor, peer, lines), *expected, "{peer} {lines:?}");
    }
}

#[test]
fn other_headers() {
    let cases: &[(ForwardedHeader, &'static str, &str, &str)] = &[
        (ForwardedHeader::Forwarded, "forwarded", "for=198.51.100.1;proto=https;by=10.0.0.1", "198.51.100.1"),
        (ForwardedHeader::Forwarded, "forwarded", "For=\"[2001:db8::7]:4711\"", "2001:db8::7"),
        (ForwardedHeader::Forwarded, "forwarded", "for=1.1.1.1, proto=http; for=198.51.100.1", "198.51.100.1"),
        (ForwardedHeader::Forwarded, "forwarded", "for=198.51.100.1, proto=http", "10.0.0.1 ?"),
        (ForwardedHeader::Forwarded, "forwarded", "for=_hidden", "10.0.0.1 ?"),
        (ForwardedHeader::Forwarded, "forwarded", "for=\"198.51.100.1", "10.0.0.1 ?"),
        (ForwardedHeader::XRealIp, "x-real-ip", "198.51.100.1", "198.51.100.1"),
    ];
    for (header, name, value, expected) in cases {
        assert_eq!(client(*header, "10.0.0.1", &[(name, value)]), *expected, "{value}");
    }
}

proptest! {
    #[test]
    fn no_header_makes_a_stranger_somebody_else(value in "[ -~]{0,80}") {
        for (header, name) in [
            (ForwardedHeader::XForwardedFor, "x-forwarded-for"),
            (ForwardedHeader::Forwarded, "forwarded"),
            (ForwardedHeader::XRealIp, "x-real-ip"),
        ] {
            prop_assert_eq!(client(header, "203.0.113.9", &[(name, &value)]), "203.0.113.9");
            // Whatever the client sends, the address its proxy appends is the one that counts.
            let appended = match header {
                ForwardedHeader::Forwarded => format!("{value}, for=198.51.100.1"),
                _ => format!("{value}, 198.51.100.1"),
            };
            prop_assert_eq!(client(header, "10.0.0.1", &[(name, &appended)]), "198.51.100.1");
        }
    }
}
