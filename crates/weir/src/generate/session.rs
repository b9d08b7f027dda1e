//! One visit to a shop, as a chain of pages with what people do on them.
//!
//! The funnel is landing, product, cart, checkout, purchase; where people go next depends only on
//! where they are. A session plans the page it is on and is asked for one action after the other.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::world::{Shop, log_normal, mix, pick, rng};

/// A kind of page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Page {
    Home,
    Category,
    Search,
    Product,
    Cart,
    Checkout,
    Confirmation,
}

/// Something a visitor does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Action {
    /// Opens the page; the server answers.
    Open,
    /// The browser reports how the page loaded.
    Performance,
    /// Scrolls to that share of the page, in percent.
    Scroll(f64),
    /// Clicks what leads on.
    Click(&'static str),
    /// Puts the product into the cart; the server answers.
    AddToCart,
    /// Sends the order; the server answers.
    Purchase,
    /// Leaves.
    Leave,
}

/// A visit in progress.
#[derive(Debug)]
pub(super) struct Session {
    /// The number of the session in its shop.
    pub(super) number: u64,
    pub(super) page: Page,
    /// Index of the product looked at.
    pub(super) product: usize,
    /// Indices of the products in the cart.
    pub(super) cart: Vec<usize>,
    /// The page before, for the referrer.
    pub(super) came_from: Option<Page>,
    pub(super) campaign: Option<&'static str>,
    is_bot: bool,
    pages_left: u32,
    planned: VecDeque<(Duration, Action)>,
    next: Page,
    rng: ChaCha8Rng,
}

const CAMPAIGNS: [(u32, Option<&str>); 4] =
    [(70, None), (14, Some("newsletter")), (10, Some("search-ads")), (6, Some("autumn-sale"))];

impl Session {
    /// The session of that number.
    pub(super) fn new(shop: &Shop, seed: u64, number: u64, is_bot: bool) -> Self {
        let mut rng = rng(mix(seed, &[3, number]));
        let landing = if is_bot {
            Page::Product
        } else {
            *pick(&mut rng, &[(50, Page::Home), (22, Page::Category), (20, Page::Product), (8, Page::Search)])
        };
        let product = popular(&mut rng, shop);
        let campaign = if is_bot { None } else { *pick(&mut rng, &CAMPAIGNS) };
        let pages_left = if is_bot { rng.random_range(8..40) } else { 60 };
        let mut session = Self {
            number,
            page: landing,
            product,
            cart: Vec::new(),
            came_from: None,
            campaign,
            is_bot,
            pages_left,
            planned: VecDeque::new(),
            next: landing,
            rng,
        };
        session.plan();
        session
    }

    /// What is done next, and how long after the action before. `None` once it is over.
    pub(super) fn next(&mut self, shop: &Shop) -> Option<(Duration, Action)> {
        if let Some(planned) = self.planned.pop_front() {
            return (planned.1 != Action::Leave).then_some(planned);
        }
        self.came_from = Some(self.page);
        self.page = self.next;
        self.pages_left = self.pages_left.saturating_sub(1);
        if self.page == Page::Product {
            self.product = popular(&mut self.rng, shop);
        }
        self.plan();
        self.next(shop)
    }

    /// Whether an order went through decides where the visitor goes.
    pub(super) fn order_answered(&mut self, accepted: bool) {
        if accepted {
            self.cart.clear();
            self.turn_to(Page::Confirmation);
        } else if self.rng.random_bool(0.5) {
            // Tries again after a moment.
            self.planned = VecDeque::from([(self.pause(8.0), Action::Purchase)]);
        } else {
            self.planned = VecDeque::from([(Duration::ZERO, Action::Leave)]);
        }
    }

    fn turn_to(&mut self, page: Page) {
        self.next = page;
        self.planned.clear();
    }

    fn pause(&mut self, median_s: f64) -> Duration {
        let seconds = log_normal(&mut self.rng, median_s, 1.8).clamp(0.2, 120.0);
        Duration::from_millis((seconds * 1000.0) as u64)
    }

    /// Plans the page just entered up to what leads on.
    fn plan(&mut self) {
        let opened = if self.is_bot { self.pause(0.6) } else { Duration::from_millis(self.rng.random_range(80..400)) };
        self.planned.push_back((opened, Action::Open));
        if self.is_bot {
            self.next = *pick(&mut self.rng, &[(80, Page::Product), (20, Page::Category)]);
            if self.pages_left == 0 {
                self.planned.push_back((Duration::ZERO, Action::Leave));
            }
            return;
        }
        if self.rng.random_bool(0.6) {
            let loaded = Duration::from_millis(self.rng.random_range(900..3500));
            self.planned.push_back((loaded, Action::Performance));
        }
        let mut depth: f64 = 0.0;
        while depth < 95.0 && self.rng.random_bool(0.5) {
            depth = (depth + self.rng.random_range(10.0..45.0)).min(100.0);
            let pause = self.pause(4.0);
            self.planned.push_back((pause, Action::Scroll(depth.round())));
        }
        let pause = self.pause(6.0);
        self.plan_end(pause);
    }

    /// Plans how the visitor leaves the page.
    fn plan_end(&mut self, pause: Duration) {
        use Page::{Cart, Category, Checkout, Confirmation, Home, Product, Search};
        /// Where a page leads: weight, then the page and what is clicked; no page is the way out.
        type Way = (u32, Option<(Page, &'static str)>);
        const HOME: &[Way] = &[
            (45, Some((Category, "nav a.category"))),
            (20, Some((Product, ".hero .product"))),
            (10, Some((Search, "form.search button"))),
            (25, None),
        ];
        const CATEGORY: &[Way] =
            &[(58, Some((Product, ".grid .product"))), (12, Some((Category, ".pager .next"))), (30, None)];
        const SEARCH: &[Way] =
            &[(54, Some((Product, ".results a"))), (14, Some((Search, "form.search button"))), (32, None)];
        const PRODUCT: &[Way] = &[
            (26, Some((Product, ".similar .product"))),
            (14, Some((Category, ".breadcrumb a"))),
            (11, Some((Cart, "#add-to-cart"))),
            (49, None),
        ];
        const CART: &[Way] =
            &[(52, Some((Checkout, "#checkout"))), (16, Some((Product, ".cart a.product"))), (32, None)];
        const CONFIRMATION: &[Way] = &[(15, Some((Home, "header .logo"))), (85, None)];
        let ways: &[Way] = match self.page {
            Home => HOME,
            Category => CATEGORY,
            Search => SEARCH,
            Product => PRODUCT,
            Cart => CART,
            Confirmation => CONFIRMATION,
            Checkout => {
                let buys = self.rng.random_bool(0.66);
                let end = if buys { Action::Purchase } else { Action::Leave };
                if buys {
                    self.planned.push_back((pause, Action::Click("#place-order")));
                }
                self.planned.push_back((Duration::from_millis(30), end));
                return;
            }
        };
        let way = if self.pages_left == 0 { None } else { *pick(&mut self.rng, ways) };
        match way {
            Some((next, selector)) => {
                self.next = next;
                self.planned.push_back((pause, Action::Click(selector)));
                if next == Cart && self.page == Product {
                    self.cart.push(self.product);
                    self.planned.push_back((Duration::from_millis(20), Action::AddToCart));
                }
            }
            None => self.planned.push_back((pause, Action::Leave)),
        }
    }
}

/// A product; the first ones sell best.
fn popular(rng: &mut ChaCha8Rng, shop: &Shop) -> usize {
    let share: f64 = rng.random();
    ((share * share * share) * shop.products.len() as f64) as usize % shop.products.len()
}
