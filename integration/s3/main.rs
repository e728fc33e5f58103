//! `nexus-s3-server PORT FOLDER`: an S3 server on 127.0.0.1 whose buckets are the folders in
//! FOLDER. Access key and secret key are both `nexus-test`; what is refused otherwise is in [`rules`]. Ends
//! when its standard input does, so that nobody has to look for it when a test is gone.

mod rules;

use std::error::Error;
use std::io::Read;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: nexus-s3-server PORT FOLDER";
    let port: u16 = arguments.next().ok_or(usage)?.parse()?;
    let folder = arguments.next().ok_or(usage)?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(port, &folder))
}

async fn serve(port: u16, folder: &str) -> Result<(), Box<dyn Error>> {
    let files = FileSystem::new(folder).map_err(|error| format!("{folder}: {error:?}"))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(rules::Keys);
    builder.set_access(rules::Rules { folder: folder.into() });
    let service = builder.build();
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        // Else each small answer waits for an acknowledgement.
        socket.set_nodelay(true)?;
        let service = service.clone();
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            // A client that goes away is no concern of the server's.
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
