//! The text of a key: `weir_<kind>_<id>_<secret><check>`.
//!
//! The check lets clients, secret scanners and the server refuse a mistyped key without a look-up;
//! it is the CRC-32 everybody has (IEEE 802.3, as in zlib), and it is not security.

use weir_base::random;

const PREFIX: &str = "weir_";
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of the public part.
pub(crate) const ID_LEN: usize = 12;
/// Characters of the secret: 62^43 is just above 2^256.
const SECRET_LEN: usize = 43;
/// Characters of the check: 62^6 is above 2^32.
const CHECK_LEN: usize = 6;
/// `weir_key_` or `weir_adm_`.
const HEAD_LEN: usize = PREFIX.len() + 4;
/// Characters of a whole key.
pub(crate) const KEY_LEN: usize = HEAD_LEN + ID_LEN + 1 + SECRET_LEN + CHECK_LEN;

/// A key whose form and check are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParsedKey<'a> {
    /// `key` or `adm`.
    pub(crate) kind: &'a str,
    /// The public part.
    pub(crate) id: &'a str,
    /// Everything before the check; this is what is hashed, so kind and id are bound to the secret.
    pub(crate) body: &'a str,
}

/// Takes a key apart; `None` unless form and check are right.
pub(crate) fn parse(text: &str) -> Option<ParsedKey<'_>> {
    // From here on every byte is one character.
    if text.len() != KEY_LEN || !text.is_ascii() || !text.starts_with(PREFIX) {
        return None;
    }
    let (body, check) = text.split_at(KEY_LEN - CHECK_LEN);
    let kind = &text[PREFIX.len()..PREFIX.len() + 3];
    let id = &text[HEAD_LEN..HEAD_LEN + ID_LEN];
    let secret = &body[HEAD_LEN + ID_LEN + 1..];
    let separators = [body.as_bytes()[HEAD_LEN - 1], body.as_bytes()[HEAD_LEN + ID_LEN]];
    let well_formed = matches!(kind, "key" | "adm")
        && separators == [b'_', b'_']
        && id.bytes().chain(secret.bytes()).all(|byte| byte.is_ascii_alphanumeric());
    (well_formed && check.as_bytes() == check_of(body)).then_some(ParsedKey { kind, id, body })
}

/// Makes a key nobody can guess: its id and its text.
pub(crate) fn generate(kind: &str) -> (String, String) {
    let id = random_id();
    let secret = encode(random::bytes::<32>());
    let mut text = format!("{PREFIX}{kind}_{id}_{secret}");
    let check = check_of(&text);
    text.extend(check.iter().map(|byte| char::from(*byte)));
    (id, text)
}

fn random_id() -> String {
    let mut id = String::with_capacity(ID_LEN);
    while id.len() < ID_LEN {
        // Only below 4 * 62 are all characters equally likely.
        let usable = random::bytes::<32>().into_iter().filter(|byte| *byte < 248);
        id.extend(usable.take(ID_LEN - id.len()).map(|byte| char::from(ALPHABET[usize::from(byte % 62)])));
    }
    id
}

/// The 256-bit number in base 62, with leading zeros.
fn encode(mut number: [u8; 32]) -> String {
    let mut digits = [0_u8; SECRET_LEN];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in &mut number {
            let value = remainder * 256 + u32::from(*byte);
            *byte = (value / 62) as u8;
            remainder = value % 62;
        }
        *digit = ALPHABET[remainder as usize];
    }
    digits.iter().map(|byte| char::from(*byte)).collect()
}

/// The check of everything before it.
pub(crate) fn check_of(body: &str) -> [u8; CHECK_LEN] {
    let mut number = crc32(body.as_bytes());
    let mut check = [0; CHECK_LEN];
    for digit in check.iter_mut().rev() {
        *digit = ALPHABET[(number % 62) as usize];
        number /= 62;
    }
    check
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut value = at as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xEDB8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
};

/// CRC-32 of IEEE 802.3.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ CRC_TABLE[((crc ^ u32::from(*byte)) & 0xFF) as usize])
}
