//! What is left to chance: drawn by a seed, or gone through in full.

/// A source of choices. Exhaustive ones go through every sequence of choices a piece of code can
/// make: run it, call [`Choices::next`], run it again until that says no.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Choices made, each with the number of options; `None` when drawn by a seed.
    path: Option<Vec<(usize, usize)>>,
    at: usize,
    random: u64,
}

impl Choices {
    /// Choices drawn by a seed.
    pub fn seeded(seed: u64) -> Self {
        Self { path: None, at: 0, random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d }
    }

    /// Every sequence of choices, one after another.
    pub fn exhaustive() -> Self {
        Self { path: Some(Vec::new()), at: 0, random: 1 }
    }

    /// One of `0..options`.
    pub fn choose(&mut self, options: usize) -> usize {
        if options < 2 {
            return 0;
        }
        let Some(path) = &mut self.path else { return (self.draw() % options as u64) as usize };
        let chosen = match path.get(self.at) {
            Some((chosen, _)) => *chosen,
            None => {
                path.push((0, options));
                0
            }
        };
        self.at += 1;
        chosen
    }

    /// Yes or no, always drawn: for what is too large to go through in full.
    pub fn coin(&mut self) -> bool {
        self.draw() & 1 == 1
    }

    /// A number below `options`, always drawn.
    pub fn draw_below(&mut self, options: u64) -> u64 {
        self.draw() % options.max(1)
    }

    /// Moves on to the next sequence; false when all have been seen, at once if drawn by a seed.
    #[allow(clippy::should_implement_trait, reason = "it does not yield items")]
    pub fn next(&mut self) -> bool {
        let Some(path) = &mut self.path else { return false };
        self.at = 0;
        self.random = self.random.wrapping_add(1);
        while let Some((chosen, options)) = path.last_mut() {
            *chosen += 1;
            if *chosen < *options {
                return true;
            }
            path.pop();
        }
        false
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
