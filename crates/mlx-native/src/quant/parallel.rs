//! Work on many groups, spread over the processors: for converting, not for inference, which has a pool of its own.

/// Groups that are worth a thread.
const WORTH: usize = 4096;

/// How many of `groups` groups each part should have.
pub(super) fn share(groups: usize) -> usize {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(groups / WORTH);
    groups.div_ceil(threads.max(1)).max(1)
}

/// Does `work` on every part, all at the same time.
pub(super) fn run<P: Send>(parts: impl Iterator<Item = P>, work: impl Fn(P) + Sync) {
    let mut parts = parts.peekable();
    let Some(first) = parts.next() else { return };
    if parts.peek().is_none() {
        return work(first);
    }
    std::thread::scope(|scope| {
        for part in parts {
            scope.spawn(|| work(part));
        }
        work(first);
    });
}
