//! Lists that come in pages.

/// One page of a list, newest first.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<i64>,
}

/// Which part of a list is wanted: everything before `cursor`, `limit` at most.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    pub cursor: Option<i64>,
    pub limit: usize,
}

impl<T> Page<T> {
    /// What was asked for, of items of which one more was read than a page holds: it tells whether there is another page.
    pub(super) fn of(mut items: Vec<T>, request: PageRequest, id: impl Fn(&T) -> i64) -> Self {
        let more = items.len() > request.limit;
        items.truncate(request.limit);
        let next = items.last().filter(|_| more).map(id);
        Self { items, next }
    }
}
