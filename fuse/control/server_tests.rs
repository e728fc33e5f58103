//! Tests of both sides of the control socket.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use super::super::client::{Client, ControlError};
use super::*;

struct Echo;

impl Handler for Echo {
    fn handle(&self, request: Request) -> Result<Reply, String> {
        match request {
            Request::Check { deep } => {
                Ok(Reply::Findings { findings: vec![format!("deep {deep}")], checked: String::new() })
            }
            Request::Sync => Ok(Reply::Done),
            Request::Gc => {
                Ok(Reply::Findings { findings: vec!["x".repeat(MAX_REPLY_BYTES as usize)], checked: String::new() })
            }
            other => Err(format!("no {other:?} today")),
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn requests_are_answered_at_a_path_of_any_length() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("long".repeat(50));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("control.sock");
    let server = Server::start(&path, Arc::new(Echo)).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let client = Client::new(&path);
    assert_eq!(client.ask(&Request::Sync, LONG).unwrap(), Reply::Done);
    let reply = client.ask(&Request::Check { deep: true }, LONG).unwrap();
    assert_eq!(reply, Reply::Findings { findings: vec!["deep true".to_owned()], checked: String::new() });
    let error = client.ask(&Request::Status, LONG).unwrap_err().to_string();
    assert_eq!(error, "no Status today");
    let error = client.ask(&Request::Gc, LONG).unwrap_err().to_string();
    assert_eq!(error, "the answer is too long");
    drop(server);
    assert!(!path.exists());
    assert!(matches!(client.ask(&Request::Sync, LONG), Err(ControlError::NobodyThere(_))));
}

#[test]
fn a_dead_daemons_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::new(&path).ask(&Request::Sync, LONG), Err(ControlError::NobodyThere(_))));
    let _server = Server::start(&path, Arc::new(Echo)).unwrap();
    assert_eq!(Client::new(&path).ask(&Request::Sync, LONG).unwrap(), Reply::Done);
}

#[test]
fn bad_lines_are_refused_and_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let _server = Server::start(&path, Arc::new(Echo)).unwrap();
    let too_long = vec![b'x'; MAX_REQUEST_BYTES as usize];
    let cases: [(&[u8], &str); 7] = [
        (b"hello\n", "this is no request"),
        (b"{\"version\":2,\"request\":{\"do\":\"sync\"}}\n", "speaks version 1"),
        (b"{\"version\":1,\"request\":{\"do\":\"format\"}}\n", "unknown variant"),
        (b"{\"version\":1,\"request\":{\"do\":\"check\"}}\n", "missing field"),
        (b"{\"version\":1,\"request\":{\"do\":\"sync\"}}", "ends before its line"),
        (b"\xff\xfe\n", "this is no request"),
        (&too_long, "longer than 65536"),
    ];
    for (line, expected) in cases {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(line).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(expected), "{:?}: {answer}", String::from_utf8_lossy(line));
    }
    assert_eq!(Client::new(&path).ask(&Request::Sync, LONG).unwrap(), Reply::Done);
}
