//! Messages of queries and watches, to plain types and back.

use bytes::Bytes;
use nexus_kernel::{Ino, Name};
use nexus_proto as proto;

use super::convert::{self, MAX_ENTRIES, Malformed};
use super::identity::ZoneId;
use super::peer::{NamedChange, Query, QueryAnswer, WatchEvent};

type Result<T> = std::result::Result<T, Malformed>;

fn inode(ino: u64) -> Result<Ino> {
    match (1..=Ino::MAX.0).contains(&ino) {
        true => Ok(Ino(ino)),
        false => Err(Malformed(format!("{ino} is no inode"))),
    }
}

fn entries(limit: u32) -> Result<usize> {
    match usize::try_from(limit) {
        Ok(limit) if (1..=MAX_ENTRIES).contains(&limit) => Ok(limit),
        _ => Err(Malformed(format!("{limit} entries are asked for, and at most {MAX_ENTRIES} are given"))),
    }
}

fn name(bytes: Bytes) -> Result<Bytes> {
    match Name::new(&bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Malformed(format!("a name: {error}"))),
    }
}

pub(super) fn to_query(zone: ZoneId, at_least: u64, query: Query) -> proto::QueryRequest {
    use proto::query_request::Query as Wire;
    let limit = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
    let query = match query {
        Query::Inode(ino) => Wire::Inode(ino.0),
        Query::Lookup(parent, name) => Wire::Lookup(proto::Lookup { parent: parent.0, name: name.into() }),
        Query::ReadDir(ino, after, most) => Wire::ReadDir(proto::ReadDir { inode: ino.0, after, limit: limit(most) }),
        Query::Extents(ino, offset, most) => Wire::Extents(proto::Extents { inode: ino.0, offset, limit: limit(most) }),
    };
    proto::QueryRequest { header: convert::to_header(zone), at_least, query: Some(query) }
}

pub(super) fn query(request: proto::QueryRequest) -> Result<(u64, Query)> {
    use proto::query_request::Query as Wire;
    let query = match request.query {
        None => return Err(Malformed("the query is missing".into())),
        Some(Wire::Inode(ino)) => Query::Inode(inode(ino)?),
        Some(Wire::Lookup(lookup)) => Query::Lookup(inode(lookup.parent)?, name(lookup.name)?.to_vec()),
        Some(Wire::ReadDir(read)) => Query::ReadDir(inode(read.inode)?, read.after, entries(read.limit)?),
        Some(Wire::Extents(extents)) => Query::Extents(inode(extents.inode)?, extents.offset, entries(extents.limit)?),
    };
    Ok((request.at_least, query))
}

pub(super) fn to_answer(answer: QueryAnswer) -> proto::QueryReply {
    proto::QueryReply { index: answer.index, records: answer.records }
}

pub(super) fn answer(reply: proto::QueryReply) -> Result<QueryAnswer> {
    match reply.records.len() <= MAX_ENTRIES {
        true => Ok(QueryAnswer { index: reply.index, records: reply.records }),
        false => Err(Malformed("more records came than may be asked for".into())),
    }
}

pub(super) fn to_event(event: WatchEvent) -> proto::WatchEvent {
    let named = |change: NamedChange| proto::NamedChange {
        parent: change.parent.0,
        name: change.name,
        inode: change.inode.map_or(0, |ino| ino.0),
        removed: change.removed,
    };
    proto::WatchEvent {
        next: event.next,
        inodes: convert::to_inodes(&event.inodes),
        names: event.names.into_iter().map(named).collect(),
        fell_behind: event.fell_behind,
    }
}

pub(super) fn event(event: proto::WatchEvent) -> Result<WatchEvent> {
    let named = |change: proto::NamedChange| {
        Ok(NamedChange {
            parent: inode(change.parent)?,
            name: name(change.name)?,
            inode: (change.inode != 0).then(|| inode(change.inode)).transpose()?,
            removed: change.removed,
        })
    };
    Ok(WatchEvent {
        next: event.next,
        inodes: convert::inodes(event.inodes)?,
        names: event.names.into_iter().map(named).collect::<Result<_>>()?,
        fell_behind: event.fell_behind,
    })
}
