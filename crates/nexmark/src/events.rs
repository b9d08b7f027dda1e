//! The events of Nexmark: people who register, auctions they open, and bids on these, as one sequence that depends on
//! a seed alone.
//!
//! The benchmark is that of "NEXMark - A Benchmark for Queries over Data Streams" (Tucker, Tufte, Papadimos and Maier,
//! 2002). What has come to be measured everywhere is the generator of Apache Beam and its descendant
//! github.com/nexmark/nexmark, whose definitions these are, with their default values: of 50 events one is a person, three
//! are auctions and 46 are bids; half of the bids go to the hot auction of the moment, three quarters come from the hot
//! bidder, three quarters of the auctions from the hot seller; prices are spread evenly over six orders of magnitude;
//! people, auctions and bids take about 200, 500 and 100 bytes. Random numbers are others, so single values differ.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Of so many events in a row ...
const ROUND: u64 = 50;
/// ... the first so many are people ...
const PEOPLE: u64 = 1;
/// ... and the next so many auctions. The others are bids.
const AUCTIONS: u64 = 3;

const FIRST_ID: i64 = 1000;
const FIRST_CATEGORY: i64 = 10;
const CATEGORIES: i64 = 5;
/// So many ids that do not exist yet may be named.
const LEAD: u64 = 10;
/// The hot one changes after so many new ones.
const HOT_FOR: u64 = 100;
const ACTIVE_PEOPLE: u64 = 1000;
const AUCTIONS_IN_FLIGHT: u64 = 100;
/// One bid in so many goes to any auction in flight, the others to the hot one; and so on.
const ANY_AUCTION: u32 = 2;
const ANY_BIDDER: u32 = 4;
const ANY_SELLER: u32 = 4;
const ANY_CHANNEL: u32 = 2;
const CHANNELS: u32 = 10_000;

const PERSON_BYTES: usize = 200;
const AUCTION_BYTES: usize = 500;
const BID_BYTES: usize = 100;

const FIRST_NAMES: &[&str] =
    &["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: &[&str] = &["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CITIES: &[&str] =
    &["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const STATES: &[&str] = &["AZ", "CA", "ID", "OR", "WA", "WY"];
const HOT_CHANNELS: &[&str] = &["Google", "Facebook", "Baidu", "Apple"];

/// 2026-01-01T00:00:00Z, in milliseconds.
const BEGIN: i64 = 1_767_225_600_000;

/// Somebody who registers.
pub(crate) struct Person {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) credit_card: String,
    pub(crate) city: &'static str,
    pub(crate) state: &'static str,
    pub(crate) extra: String,
}

/// Something that is sold.
pub(crate) struct Auction {
    pub(crate) id: i64,
    pub(crate) item_name: String,
    pub(crate) description: String,
    pub(crate) initial_bid: i64,
    pub(crate) reserve: i64,
    /// In milliseconds since 1970.
    pub(crate) expires: i64,
    pub(crate) seller: i64,
    pub(crate) category: i64,
    pub(crate) extra: String,
}

/// Somebody's bid on an auction.
pub(crate) struct Bid {
    pub(crate) auction: i64,
    pub(crate) bidder: i64,
    pub(crate) price: i64,
    pub(crate) channel: String,
    pub(crate) url: String,
    pub(crate) extra: String,
}

/// One of them.
pub(crate) enum Event {
    /// Somebody registers.
    Person(Person),
    /// Something is sold.
    Auction(Auction),
    /// Somebody bids.
    Bid(Bid),
}

/// Makes one event after the other.
pub(crate) struct Events {
    random: ChaCha8Rng,
    /// Events in a second of event time.
    rate: u64,
    number: u64,
    channels: Vec<(String, String)>,
}

/// A number of something there are fewer of than `i64` can count.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Events {
    /// The sequence of a seed, `rate` events in a second of event time.
    pub(crate) fn new(seed: u64, rate: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let channels = (0..CHANNELS).map(|number| {
            let path = [word(&mut random, 5), word(&mut random, 5), word(&mut random, 5)].join("/");
            let id = number.reverse_bits();
            (format!("channel-{number}"), format!("https://www.example.com/{path}/item.htm?query=1&channel_id={id}"))
        });
        let channels = channels.collect();
        Self { random, rate, number: 0, channels }
    }

    /// The next event with its time, in milliseconds since 1970.
    pub(crate) fn next(&mut self) -> (i64, Event) {
        let number = self.number;
        self.number += 1;
        let time = BEGIN + self.offset(number);
        let event = match number % ROUND {
            place if place < PEOPLE => Event::Person(self.person(number)),
            place if place < PEOPLE + AUCTIONS => Event::Auction(self.auction(number, time)),
            _ => Event::Bid(self.bid(number)),
        };
        (time, event)
    }

    /// When an event happens, in milliseconds after the first.
    fn offset(&self, number: u64) -> i64 {
        signed(number * 1000 / self.rate)
    }

    fn person(&mut self, number: u64) -> Person {
        let random = &mut self.random;
        let name = format!("{} {}", one_of(FIRST_NAMES, random), one_of(LAST_NAMES, random));
        let email = format!("{}@{}.com", word(random, 7), word(random, 5));
        let card: Vec<String> = (0..4).map(|_| format!("{:04}", random.random_range(0..10_000))).collect();
        let credit_card = card.join(" ");
        let (city, state) = (one_of(CITIES, random), one_of(STATES, random));
        let used = 8 + name.len() + email.len() + credit_card.len() + city.len() + state.len();
        let extra = filling(random, used, PERSON_BYTES);
        Person { id: FIRST_ID + signed(last_person(number)), name, email, credit_card, city, state, extra }
    }

    fn auction(&mut self, number: u64, time: i64) -> Auction {
        let seller = if self.random.random_range(0..ANY_SELLER) > 0 {
            last_person(number) / HOT_FOR * HOT_FOR
        } else {
            self.any_person(number)
        };
        // As long, on average, as it takes until so many more are in flight.
        let until = self.offset(number + AUCTIONS_IN_FLIGHT * ROUND / AUCTIONS) - self.offset(number);
        let random = &mut self.random;
        let initial_bid = price(random);
        let expires = time + 1 + random.random_range(0..(2 * until).max(1));
        let (item_name, description) = (word(random, 20), word(random, 100));
        let reserve = initial_bid + price(random);
        let extra = filling(random, 8 * 6 + item_name.len() + description.len(), AUCTION_BYTES);
        Auction {
            id: FIRST_ID + signed(last_auction(number)),
            item_name,
            description,
            initial_bid,
            reserve,
            expires,
            seller: FIRST_ID + signed(seller),
            category: FIRST_CATEGORY + random.random_range(0..CATEGORIES),
            extra,
        }
    }

    fn bid(&mut self, number: u64) -> Bid {
        let last = last_auction(number);
        let auction = if self.random.random_range(0..ANY_AUCTION) > 0 {
            last / HOT_FOR * HOT_FOR
        } else {
            let first = last.saturating_sub(AUCTIONS_IN_FLIGHT);
            first + self.random.random_range(0..last - first + 1 + LEAD)
        };
        let bidder = if self.random.random_range(0..ANY_BIDDER) > 0 {
            // The one after the hot seller.
            last_person(number) / HOT_FOR * HOT_FOR + 1
        } else {
            self.any_person(number)
        };
        let random = &mut self.random;
        let price = price(random);
        let (channel, url) = if random.random_range(0..ANY_CHANNEL) > 0 {
            let at = random.random_range(0..HOT_CHANNELS.len());
            (HOT_CHANNELS[at].to_owned(), self.channels[at].1.clone())
        } else {
            self.channels[random.random_range(0..self.channels.len())].clone()
        };
        let extra = filling(random, 8 * 4, BID_BYTES);
        Bid { auction: FIRST_ID + signed(auction), bidder: FIRST_ID + signed(bidder), price, channel, url, extra }
    }

    /// Somebody who was active lately, or will be soon.
    fn any_person(&mut self, number: u64) -> u64 {
        let people = last_person(number) + 1;
        let active = people.min(ACTIVE_PEOPLE);
        people - active + self.random.random_range(0..active + LEAD)
    }
}

/// The newest person at an event, from 0: there is one in each round, its first event.
fn last_person(number: u64) -> u64 {
    number / ROUND
}

/// The newest auction at an event, from 0. Before the first one, that is taken for it.
fn last_auction(number: u64) -> u64 {
    let (round, place) = (number / ROUND, number % ROUND);
    if place < PEOPLE {
        return (round * AUCTIONS).saturating_sub(1);
    }
    round * AUCTIONS + (place - PEOPLE).min(AUCTIONS - 1)
}

/// Hundredths of a currency, spread evenly over six orders of magnitude.
fn price(random: &mut ChaCha8Rng) -> i64 {
    let price: f64 = 10_f64.powf(random.random::<f64>() * 6.0) * 100.0;
    #[expect(clippy::cast_possible_truncation, reason = "at most 100 million")]
    let price = price.round() as i64;
    price
}

fn one_of(choices: &[&'static str], random: &mut ChaCha8Rng) -> &'static str {
    choices.choose(random).copied().unwrap_or_default()
}

fn letter(random: &mut ChaCha8Rng) -> char {
    char::from(random.random_range(b'a'..=b'z'))
}

/// A text of 3 letters up to `max`, with some spaces in it.
fn word(random: &mut ChaCha8Rng, max: usize) -> String {
    let length = random.random_range(3..max);
    let text: String = (0..length).map(|_| if random.random_ratio(1, 13) { ' ' } else { letter(random) }).collect();
    text.trim().to_owned()
}

/// Letters that fill up `used` bytes to `wanted`, a fifth more or less.
fn filling(random: &mut ChaCha8Rng, used: usize, wanted: usize) -> String {
    let missing = wanted.saturating_sub(used);
    let spread = missing / 5;
    let length = missing - spread + if spread > 0 { random.random_range(0..2 * spread) } else { 0 };
    (0..length).map(|_| letter(random)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proportions, and that ids are those of what was made so far.
    #[test]
    fn of_fifty_events_one_is_a_person_and_three_are_auctions() {
        let mut events = Events::new(7, 10_000);
        let (mut people, mut auctions, mut bids) = (0, 0, 0);
        let mut hot = std::collections::BTreeMap::<i64, u32>::new();
        for number in 0..50_000 {
            let (time, event) = events.next();
            assert_eq!(time, BEGIN + number / 10);
            match event {
                Event::Person(person) => {
                    assert_eq!(person.id, FIRST_ID + people);
                    people += 1;
                }
                Event::Auction(auction) => {
                    assert_eq!(auction.id, FIRST_ID + auctions);
                    assert!(auction.expires > time);
                    auctions += 1;
                }
                Event::Bid(bid) => {
                    assert!((100..=100_000_000).contains(&bid.price), "{}", bid.price);
                    assert!(bid.auction < FIRST_ID + auctions + signed(LEAD), "{}", bid.auction);
                    *hot.entry(bid.auction % signed(HOT_FOR)).or_default() += 1;
                    bids += 1;
                }
            }
        }
        assert_eq!((people, auctions, bids), (1000, 3000, 46_000));
        let share = f64::from(hot[&0]) / 46_000.0;
        assert!((0.49..0.53).contains(&share), "{share} of the bids go to hot auctions");
    }

    /// Results are compared between runs and programs, so events are the same for a seed.
    #[test]
    fn a_seed_always_gives_the_same_events() {
        let prices = |seed: u64| -> Vec<i64> {
            let mut events = Events::new(seed, 10_000);
            let price = |_| match events.next().1 {
                Event::Bid(bid) => bid.price,
                _ => 0,
            };
            (0..100).map(price).collect()
        };
        assert_eq!(prices(1), prices(1));
        assert_ne!(prices(1), prices(2));
    }
}
