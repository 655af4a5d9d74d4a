//! States of texts that were computed before: what a new prompt begins with need not be computed again.

/// A state and the tokens that it is behind.
#[derive(Debug)]
struct Entry<S> {
    tokens: Vec<u32>,
    salt: String,
    state: S,
    bytes: usize,
    used: u64,
}

/// States within a limit of memory, those used last.
#[derive(Debug)]
pub(super) struct PrefixCache<S> {
    entries: Vec<Entry<S>>,
    clock: u64,
    bytes: usize,
    max_entries: usize,
    /// Beginnings are known in multiples of so many tokens.
    grid: usize,
}

impl<S> PrefixCache<S> {
    pub fn new(max_entries: usize, grid: usize) -> Self {
        PrefixCache {
            entries: Vec::new(),
            clock: 0,
            bytes: 0,
            max_entries,
            grid,
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The state that knows most of `tokens`, and how many of them: all but the last at most, for one has to be computed.
    /// `can_go_back` says whether a state can forget what is behind so many tokens.
    pub fn find(
        &mut self,
        tokens: &[u32],
        salt: &str,
        can_go_back: impl Fn(&S, usize) -> bool,
    ) -> Option<(&S, usize)> {
        let most = tokens.len().saturating_sub(1);
        let mut best: Option<(usize, usize)> = None;
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, e)| e.salt == salt) {
            let common = common(&entry.tokens, tokens).min(most) / self.grid * self.grid;
            let better = best.is_none_or(|(_, n)| common > n);
            if common > 0 && better && (common == entry.tokens.len() || can_go_back(&entry.state, common)) {
                best = Some((index, common));
            }
        }
        let (index, common) = best?;
        self.clock += 1;
        let entry = &mut self.entries[index];
        entry.used = self.clock;
        Some((&entry.state, common))
    }

    /// Keeps a state. One that knows less of the same text goes, where the new one can go back to it.
    pub fn insert(
        &mut self,
        tokens: Vec<u32>,
        salt: &str,
        state: S,
        bytes: usize,
        can_go_back: impl Fn(&S, usize) -> bool,
    ) {
        if self.max_entries == 0 || tokens.is_empty() {
            return;
        }
        let same = |entry: &Entry<S>| entry.salt == salt;
        let known = (self.entries.iter()).any(|e| {
            same(e)
                && e.tokens.starts_with(&tokens)
                && (e.tokens.len() == tokens.len() || can_go_back(&e.state, tokens.len()))
        });
        if known {
            return;
        }
        let freed = &mut self.bytes;
        self.entries.retain(|e| {
            let stays = !(same(e) && tokens.starts_with(&e.tokens) && can_go_back(&state, e.tokens.len()));
            if !stays {
                *freed -= e.bytes;
            }
            stays
        });
        self.clock += 1;
        self.bytes += bytes;
        self.entries.push(Entry {
            tokens,
            salt: salt.to_owned(),
            state,
            bytes,
            used: self.clock,
        });
        while self.entries.len() > self.max_entries {
            self.evict();
        }
    }

    /// Forgets the state that was not used for longest; whether there was one.
    pub fn evict(&mut self) -> bool {
        let oldest = (0..self.entries.len()).min_by_key(|i| self.entries[*i].used);
        match oldest {
            Some(index) => {
                self.bytes -= self.entries.swap_remove(index).bytes;
                true
            }
            None => false,
        }
    }
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_is_found_within_its_salt() {
        let mut cache = PrefixCache::new(3, 1);
        let back = |_: &&str, _: usize| true;
        cache.insert(vec![1, 2, 3, 4], "", "a", 10, back);
        cache.insert(vec![1, 2, 9], "", "b", 10, back);
        cache.insert(vec![1, 2, 3, 4, 5], "x", "c", 10, back);
        assert_eq!(cache.find(&[1, 2, 3, 7], "", back), Some((&"a", 3)));
        assert_eq!(
            cache.find(&[1, 2, 9], "", back),
            Some((&"a", 2)),
            "one token is always computed"
        );
        assert_eq!(cache.find(&[1, 2, 3, 4, 5, 6], "x", back), Some((&"c", 5)));
        assert_eq!(cache.find(&[1], "", back), None);
        assert_eq!(cache.find(&[1, 2], "y", back), None);
        // A state that cannot go back is of use only where the whole of it is the beginning.
        let no = |_: &&str, _: usize| false;
        assert_eq!(cache.find(&[1, 2, 3, 7], "", no), None);
        assert_eq!(cache.find(&[1, 2, 9, 7], "", no), Some((&"b", 3)));
        cache.insert(vec![1, 2, 3, 4, 8], "", "d", 10, back);
        assert_eq!(
            (cache.len(), cache.bytes()),
            (3, 30),
            "a longer text takes the place of a shorter one"
        );
        cache.insert(vec![7], "", "e", 5, back);
        assert_eq!((cache.len(), cache.bytes()), (3, 25));
        let mut coarse = PrefixCache::new(3, 2);
        coarse.insert(vec![1, 2, 3, 4], "", "a", 10, back);
        assert_eq!(coarse.find(&[1, 2, 3, 4, 5], "", back), Some((&"a", 4)));
        assert_eq!(coarse.find(&[1, 2, 3, 7], "", back), Some((&"a", 2)));
        assert_eq!(coarse.find(&[1, 7, 3, 7], "", back), None);
        while cache.evict() {}
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }
}
