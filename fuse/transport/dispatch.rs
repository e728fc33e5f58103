//! From a request's bytes to its reply's bytes, whatever carries them.

use crate::abi::opcode;
use crate::answer::{Answer, Encoded};
use crate::handler::{Errno, Handler};
use crate::operation::{Bulk, Operation};
use crate::read::Reader;
use crate::request::{Forget, Header, ParseError, Request};

/// What is to be done with a request, once its outer form is known.
#[derive(Debug)]
pub enum Turn {
    /// The buffer may be written over, and then holds the answer: the request is for bulk data.
    Fill(Header, Bulk),
    /// Answered; the reply is not encoded yet, because the request lies where it goes.
    Answered(Answer),
}

/// Takes one request as far as its bytes are needed.
pub fn take(handler: &dyn Handler, request: Result<Request<'_>, ParseError>, header: Header) -> Turn {
    let refused = |error| {
        log::error!("a request of the kernel is malformed ({error}): {header:?}");
        Turn::Answered(Answer::Error(Errno::EPROTO))
    };
    let request = match request {
        Ok(request) => request,
        Err(error) => return refused(error),
    };
    match header.opcode {
        opcode::FORGET | opcode::BATCH_FORGET => match forgotten(&request) {
            Ok(list) => {
                handler.forget(&list);
                Turn::Answered(Answer::Silence)
            }
            Err(error) => refused(error),
        },
        opcode::INTERRUPT => match Reader::new(request.operation).u64() {
            Ok(unique) => {
                handler.interrupt(unique);
                Turn::Answered(Answer::Silence)
            }
            Err(error) => refused(error),
        },
        opcode::NOTIFY_REPLY => Turn::Answered(Answer::Silence),
        _ => match Bulk::parse(&request) {
            Ok(Some(bulk)) => Turn::Fill(header, bulk),
            Ok(None) => match Operation::parse(&request) {
                Ok(operation) => Turn::Answered(handler.call(&header, operation)),
                Err(error) => refused(error),
            },
            Err(error) => refused(error),
        },
    }
}

/// Ends what [`take`] began, now that `buffer` may be written over. `None`: no reply.
pub fn finish(handler: &dyn Handler, turn: Turn, buffer: &mut [u8]) -> Option<Encoded> {
    match turn {
        Turn::Answered(answer) => answer.encode(buffer),
        Turn::Fill(header, bulk) => {
            let size = bulk.size() as usize;
            let len = size.min(buffer.len());
            let room = buffer.get_mut(..len).unwrap_or_default();
            Some(match handler.fill(&header, bulk, room) {
                Ok(filled) => Encoded { error: 0, len: filled.min(len) },
                Err(errno) => Encoded::failed(errno),
            })
        }
    }
}

/// The nodes that FORGET or BATCH_FORGET names.
fn forgotten(request: &Request<'_>) -> Result<Vec<Forget>, ParseError> {
    let mut read = Reader::new(request.operation);
    if request.header.opcode == opcode::FORGET {
        return Ok(vec![Forget { node: request.header.node, lookups: read.u64()? }]);
    }
    let count = read.u32()? as usize;
    let mut list = Reader::new(request.payload);
    // As many as are there, whatever the count promises.
    let mut forgets = Vec::with_capacity(count.min(request.payload.len() / 16));
    for _ in 0..count {
        forgets.push(Forget { node: list.u64()?, lookups: list.u64()? });
    }
    Ok(forgets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Record(Mutex<Vec<Forget>>);

    impl Handler for Record {
        fn call(&self, _header: &Header, _operation: Operation<'_>) -> Answer {
            Answer::Done
        }
        fn fill(&self, _header: &Header, _bulk: Bulk, out: &mut [u8]) -> Result<usize, Errno> {
            out.fill(7);
            Ok(out.len() + 100)
        }
        fn forget(&self, forgotten: &[Forget]) {
            self.0.lock().extend(forgotten);
        }
    }

    fn run(handler: &Record, message: &[u8], out: &mut [u8]) -> Option<Encoded> {
        let header = Header::parse(message).unwrap();
        finish(handler, take(handler, Request::from_message(message), header), out)
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn forgets_come_alone_and_in_batches_and_get_no_reply() {
        let handler = Record::default();
        assert_eq!(run(&handler, &message(opcode::FORGET, 5, &words(&[3])), &mut []), None);
        assert_eq!(run(&handler, &message(opcode::BATCH_FORGET, 0, &words(&[2, 6, 1, 7, 2])), &mut []), None);
        let forget = |node, lookups| Forget { node, lookups };
        assert_eq!(*handler.0.lock(), [forget(5, 3), forget(6, 1), forget(7, 2)]);
    }

    #[test]
    fn a_batch_that_promises_too_much_is_refused_whole() {
        let handler = Record::default();
        let reply = run(&handler, &message(opcode::BATCH_FORGET, 0, &words(&[u64::from(u32::MAX), 6, 1])), &mut []);
        assert_eq!(reply, Some(Encoded::failed(Errno::EPROTO)));
        assert!(handler.0.lock().is_empty());
    }

    #[test]
    fn bulk_answers_never_exceed_what_was_asked_for() {
        let mut read = words(&[1, 2, 4, 0, 0]);
        read.truncate(40);
        let mut out = [0; 16];
        let reply = run(&Record::default(), &message(opcode::READ, 5, &read), &mut out);
        assert_eq!(reply, Some(Encoded { error: 0, len: 4 }));
        assert_eq!(out, [7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
