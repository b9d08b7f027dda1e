//! When a certificate ends. The library for TLS does not say it of a server's own, and clients would be
//! the first to notice; so the one field is looked up in the DER, and nothing else is read.

use weir_base::Timestamp;

/// The end of the validity of an X.509 certificate; `None` where it cannot be made out.
pub(super) fn not_after(der: &[u8]) -> Option<Timestamp> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(der)?;
    let (_, mut rest, _) = element(certificate)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, algorithm, issuer; then the validity.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (tag, validity, _) = element(rest)?;
    if tag != SEQUENCE {
        return None;
    }
    let (tag, text, _) = element(element(validity)?.2)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// The first element: its tag, what is in it, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let n_bytes = usize::from(first & 0x7f);
        let bytes = rest.get(..n_bytes).filter(|bytes| (1..=4).contains(&bytes.len()))?;
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = &rest[n_bytes..];
    }
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

/// `YYMMDDHHMMSSZ` (1950 to 2049) or `YYYYMMDDHHMMSSZ`, as RFC 5280 has them.
fn time(tag: u8, text: &str) -> Option<Timestamp> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let full = match tag {
        UTC_TIME if text.get(..2)?.parse::<u8>().ok()? < 50 => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| full.get(from..to);
    let rfc3339 = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?
    );
    // 9999-12-31T23:59:59Z is what RFC 5280 has for no end, and later than jiff's last moment.
    let time = rfc3339.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_nanosecond);
    let time = time.or_else(|| full.starts_with("99991231").then_some(i128::MAX))?;
    Some(Timestamp(i64::try_from(time).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_found() {
        let pem = include_bytes!("../../tests/fixtures/first.cert.pem");
        let der = CertificateDer::from_pem_slice(pem).unwrap();
        assert_eq!(not_after(&der), time(0x18, "21261028164012Z"));
        for length in 0..der.len() {
            // Whatever is missing, there is no panic, and no other time.
            assert!(not_after(&der[..length]).is_none());
        }
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        let at = |text: &str| Some(Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond() as i64));
        assert_eq!(time(0x17, "240229235959Z"), at("2024-02-29T23:59:59Z"));
        assert_eq!(time(0x17, "991231000000Z"), at("1999-12-31T00:00:00Z"));
        assert_eq!(time(0x18, "20500101000000Z"), at("2050-01-01T00:00:00Z"));
        assert_eq!(time(0x18, "99991231235959Z"), Some(Timestamp(i64::MAX)));
        for wrong in ["", "24", "241301000000Z", "24022923595"] {
            assert_eq!(time(0x17, wrong), None, "{wrong}");
        }
    }
}
