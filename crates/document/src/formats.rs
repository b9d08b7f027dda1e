//! The forms a text can have.

pub(crate) fn is_address(text: &str) -> bool {
    if text.parse::<std::net::SocketAddr>().is_ok() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        // `1.2.3:80` is a mistyped address, not a name.
        && host.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name && port.parse::<u16>().is_ok()
}

pub(crate) fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace))
}

/// `10.0.0.0/8`, `fd00::/8`, or one address.
pub(crate) fn is_network(text: &str) -> bool {
    text.parse::<ipnet::IpNet>().is_ok() || text.parse::<std::net::IpAddr>().is_ok()
}

/// `[a-z][a-z0-9_]*`, at most so many characters.
pub(crate) fn is_name(text: &str, characters_max: usize) -> bool {
    text.len() <= characters_max
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
