//! Paged lists.

/// One page of a list, newest first.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<i64>,
}

/// The part of a list to return: at most `limit` items before `cursor`.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    pub cursor: Option<i64>,
    pub limit: usize,
}

impl<T> Page<T> {
    /// Makes a page of `items`. If a next page exists, `items` must have one item more than the limit.
    pub(super) fn of(mut items: Vec<T>, request: PageRequest, id: impl Fn(&T) -> i64) -> Self {
        let more = items.len() > request.limit;
        items.truncate(request.limit);
        let next = items.last().filter(|_| more).map(id);
        Self { items, next }
    }
}
