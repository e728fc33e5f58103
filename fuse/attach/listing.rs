//! Listings of directories, a page of keys at a time. A position is a page and a place in it, so
//! a listing goes on where it was; pages are fetched again for who goes back.

use nexus::cloud::Page;
use nexus_kernel::Result;

use super::tree::Found;

/// An entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Name.
    pub name: String,
    /// What it is.
    pub found: Found,
}

/// A directory that is being listed.
pub struct Listing {
    /// The directory's key.
    pub key: String,
    /// What is known only here, and was not seen in the bucket.
    local: Vec<Row>,
    /// How to ask for each page that is known of.
    tokens: Vec<Option<String>>,
    current: Option<(usize, Vec<Row>)>,
}

/// Positions below are the dots'.
pub const FIRST: u64 = 16;

impl Listing {
    /// Of the directory `key`, and what else is in it.
    pub fn new(key: String, local: Vec<Row>) -> Listing {
        Listing { key, local, tokens: vec![None], current: None }
    }

    /// The entry at a position or after it, and the position behind it. `fetch` gets pages.
    pub fn at(
        &mut self,
        position: u64,
        mut fetch: impl FnMut(Option<String>) -> Result<Page>,
    ) -> Result<Option<(Row, u64)>> {
        let position = position.max(FIRST) - FIRST;
        let (mut page, mut place) = ((position >> 16) as usize, (position & 0xffff) as usize);
        while let Some(token) = self.tokens.get(page).cloned() {
            if self.current.as_ref().is_none_or(|(number, _)| *number != page) {
                let fetched = fetch(token)?;
                self.take(page, fetched);
            }
            if let Some(row) = self.current.as_ref().and_then(|(_, rows)| rows.get(place)) {
                return Ok(Some((row.clone(), FIRST + ((page as u64) << 16) + place as u64 + 1)));
            }
            (page, place) = (page + 1, 0);
        }
        Ok(None)
    }

    fn take(&mut self, number: usize, page: Page) {
        let mut rows: Vec<Row> = Vec::new();
        let dirs: std::collections::HashSet<&String> = page.prefixes.iter().collect();
        let objects = page.objects.iter().filter(|object| {
            let hidden = dirs.contains(&object.key);
            if hidden {
                log::warn!("the object {0} is hidden: there is a directory {0}/ too", object.key);
            }
            !hidden && object.key != self.key
        });
        let found = page.prefixes.iter().map(|key| (key, Found::Dir));
        for (key, found) in found.chain(objects.map(|object| (&object.key, Found::File(object.clone())))) {
            let name = key.rsplit('/').next().unwrap_or_default();
            if name.is_empty() || name.len() > 255 || name.contains('\0') {
                log::warn!("{key:?} can't be a file name, and is not shown");
                continue;
            }
            self.local.retain(|row| row.name != name);
            rows.push(Row { name: name.to_owned(), found });
        }
        match page.next {
            Some(next) if self.tokens.len() == number + 1 => self.tokens.push(Some(next)),
            Some(_) => {}
            None => rows.extend(self.local.iter().cloned()),
        }
        self.current = Some((number, rows));
    }
}
