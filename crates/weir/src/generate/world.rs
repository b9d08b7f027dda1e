//! Who visits a shop, when, and what it sells.
//!
//! Everything here is a function of the seed: the same shop has the same people in every run, so
//! that visitors return between runs as well as within one.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use uuid::Uuid;
use weir_base::Timestamp;

const NANOS_PER_HOUR: i64 = 3_600_000_000_000;

/// Mixes numbers into a seed: for a stream of randomness of its own for everything that has a
/// number.
pub(super) fn mix(seed: u64, parts: &[u64]) -> u64 {
    parts.iter().fold(seed, |state, part| {
        // The finaliser of SplitMix64.
        let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_add(part.wrapping_mul(0xd1b5_4a32_d192_ed03));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// The generator of a seed.
pub(super) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// One of `choices`, by weight.
pub(super) fn pick<'c, T>(rng: &mut ChaCha8Rng, choices: &'c [(u32, T)]) -> &'c T {
    let total: u32 = choices.iter().map(|(weight, _)| weight).sum();
    let mut at = rng.random_range(0..total.max(1));
    for (weight, choice) in choices {
        if at < *weight {
            return choice;
        }
        at -= weight;
    }
    &choices[choices.len() - 1].1
}

/// A log-normal number: half are below `median`, about one in six above `median * spread`.
pub(super) fn log_normal(rng: &mut ChaCha8Rng, median: f64, spread: f64) -> f64 {
    let normal: f64 = rng.sample(rand_distr::StandardNormal);
    median * spread.powf(normal)
}

/// Something the shop sells.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) category: &'static str,
    pub(super) price_cents: u32,
}

const CATEGORIES: [&str; 6] = ["shoes", "jackets", "backpacks", "tents", "stoves", "maps"];
const ADJECTIVES: [&str; 12] = [
    "Alpine", "Coastal", "Trail", "Summit", "Meadow", "Nordic", "Ridge", "Delta", "Ember", "Granite", "Willow", "Storm",
];

/// A tenant's shop.
#[derive(Debug)]
pub(super) struct Shop {
    seed: u64,
    pub(super) host: String,
    pub(super) products: Vec<Product>,
    /// Hours its people are ahead of UTC.
    hours_ahead: f64,
}

impl Shop {
    /// The shop of the tenant with that number, of `tenants`: their days are spread over the globe.
    pub(super) fn new(seed: u64, tenant: &str, number: usize, tenants: usize) -> Self {
        let seed = mix(seed, &[number as u64]);
        let mut rng = rng(mix(seed, &[1]));
        let products = (0..120)
            .map(|id| {
                let category = CATEGORIES[id as usize % CATEGORIES.len()];
                let adjective = ADJECTIVES[rng.random_range(0..ADJECTIVES.len())];
                let price_cents = (log_normal(&mut rng, 60.0, 2.0) * 100.0).clamp(200.0, 90_000.0) as u32;
                Product { id: 1000 + id, name: format!("{adjective} {category} {}", 10 + id), category, price_cents }
            })
            .collect();
        let hours_ahead = 24.0 * number as f64 / tenants.max(1) as f64;
        Self { seed, host: format!("{tenant}.example"), products, hours_ahead }
    }

    /// How busy the shop is at a time, around 1: quiet at night, busiest in the evening.
    pub(super) fn rhythm(&self, time: Timestamp) -> f64 {
        let hour = (time.0 as f64 / NANOS_PER_HOUR as f64 + self.hours_ahead).rem_euclid(24.0);
        let angle = |peak: f64| (hour - peak) / 24.0 * std::f64::consts::TAU;
        1.0 + 0.55 * angle(18.5).cos() + 0.15 * (2.0 * angle(12.5)).cos()
    }

    /// The visitor of that number.
    pub(super) fn visitor(&self, number: u64) -> Visitor {
        Visitor::new(number, &mut rng(mix(self.seed, &[2, number])))
    }
}

/// A person, or a bot, with the browser it uses.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) anonymous_id: String,
    /// People with an account.
    pub(super) user_id: Option<String>,
    pub(super) is_bot: bool,
    pub(super) user_agent: &'static str,
    pub(super) ip: String,
    pub(super) screen: (u16, u16),
    pub(super) viewport: (u16, u16),
    pub(super) timezone: &'static str,
    pub(super) language: &'static str,
    /// Round trip to the shop.
    pub(super) network_ms: f64,
    /// How slow the device is; 1 is usual.
    pub(super) slowness: f64,
}

/// Browsers: weight, user agent, screen, viewport.
type Device = (&'static str, (u16, u16), (u16, u16));
const DEVICES: [(u32, Device); 7] = [
    (
        30,
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
            (1920, 1080),
            (1903, 947),
        ),
    ),
    (
        22,
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
            (390, 844),
            (390, 664),
        ),
    ),
    (
        20,
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Mobile Safari/537.36",
            (412, 915),
            (412, 785),
        ),
    ),
    (
        12,
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
            (1512, 982),
            (1512, 805),
        ),
    ),
    (6, ("Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", (2560, 1440), (1280, 1299))),
    (
        6,
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0",
            (1366, 768),
            (1349, 607),
        ),
    ),
    (
        4,
        (
            "Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
            (820, 1180),
            (820, 1106),
        ),
    ),
];

const BOTS: [(u32, &str); 3] = [
    (5, "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
    (3, "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"),
    (2, "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)"),
];

/// Where people are: weight, time zone, language, first byte of the documentation address space
/// used for them, round trip in milliseconds.
type Place = (&'static str, &'static str, &'static str, f64);
const PLACES: [(u32, Place); 8] = [
    (30, ("Europe/Berlin", "de-DE", "203.0.113", 28.0)),
    (20, ("America/New_York", "en-US", "198.51.100", 95.0)),
    (12, ("Europe/London", "en-GB", "192.0.2", 35.0)),
    (10, ("Europe/Paris", "fr-FR", "203.0.113", 30.0)),
    (8, ("America/Los_Angeles", "en-US", "198.51.100", 150.0)),
    (8, ("Asia/Tokyo", "ja-JP", "192.0.2", 230.0)),
    (7, ("America/Sao_Paulo", "pt-BR", "198.51.100", 210.0)),
    (5, ("Australia/Sydney", "en-AU", "192.0.2", 290.0)),
];

impl Visitor {
    fn new(number: u64, rng: &mut ChaCha8Rng) -> Self {
        let is_bot = rng.random_bool(0.03);
        let (mut user_agent, screen, viewport) = *pick(rng, &DEVICES);
        if is_bot {
            user_agent = *pick(rng, &BOTS);
        }
        let (timezone, language, network, network_ms) = *pick(rng, &PLACES);
        let has_account = !is_bot && rng.random_bool(0.35);
        Self {
            anonymous_id: Uuid::from_u128(rng.random()).hyphenated().to_string(),
            user_id: has_account.then(|| format!("user-{number:06}")),
            is_bot,
            user_agent,
            ip: format!("{network}.{}", rng.random_range(1..255)),
            screen,
            viewport,
            timezone,
            language,
            network_ms: log_normal(rng, network_ms, 1.3),
            slowness: log_normal(rng, 1.0, 1.5).clamp(0.5, 6.0),
        }
    }
}
