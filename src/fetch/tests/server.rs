//! A server on loopback with one file and a script of what it does to requests for it.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// What is done to one request; when the script has ended, requests are answered as they should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    /// So many bytes of what was asked for, then the end of the connection.
    Cut(usize),
    /// The same, and whoever asks for a part gets the whole.
    CutWithoutRanges(usize),
    /// The same, and nothing says which version it is.
    CutWithoutVersion(usize),
    WholeWithoutRanges,
    Status(u16),
}

/// What was asked.
#[derive(Debug, Clone)]
pub(super) struct Request {
    method: String,
    pub(super) path: String,
    /// First byte of the range.
    pub(super) from: Option<u64>,
    if_range: Option<String>,
}

struct State {
    path: String,
    bytes: Vec<u8>,
    /// Counts changes; the version's name.
    edition: u32,
    script: VecDeque<Reply>,
    requests: Vec<Request>,
    gate: Option<(usize, Sender<()>, Receiver<()>)>,
}

pub(super) struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

/// Holds an answer back after its first part.
pub(super) struct Gate {
    sent: Receiver<()>,
    go_on: Sender<()>,
}

impl Gate {
    pub(super) fn wait_for_the_first_part(&self) {
        self.sent.recv().unwrap();
    }

    pub(super) fn open(&self) {
        self.go_on.send(()).unwrap();
    }
}

impl Server {
    pub(super) fn start(path: &str, bytes: Vec<u8>, script: Vec<Reply>) -> Self {
        Self::with(path, bytes, script, None)
    }

    /// A server that sends `first` bytes, and the others when its gate is opened.
    pub(super) fn gated(path: &str, bytes: Vec<u8>, first: usize) -> (Self, Gate) {
        let ((sent, was_sent), (go_on, may_go_on)) = (channel(), channel());
        (Self::with(path, bytes, vec![], Some((first, sent, may_go_on))), Gate { sent: was_sent, go_on })
    }

    fn with(path: &str, bytes: Vec<u8>, script: Vec<Reply>, gate: Option<(usize, Sender<()>, Receiver<()>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (path, script, requests) = (path.to_string(), script.into(), vec![]);
        let state = Arc::new(Mutex::new(State { path, bytes, edition: 0, script, requests, gate }));
        let shared = Arc::clone(&state);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || drop(answer(&stream, &state)));
            }
        });
        Self { address, state }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn change(&self, bytes: Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        state.bytes = bytes;
        state.edition += 1;
    }

    /// Requests for the file, in order.
    pub(super) fn requests(&self) -> Vec<Request> {
        let state = self.state.lock().unwrap();
        state.requests.iter().filter(|request| request.path == state.path).cloned().collect()
    }
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut request = Request { method: String::new(), path: String::new(), from: None, if_range: None };
    for (number, line) in BufReader::new(stream).lines().enumerate() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if number == 0 {
            let mut words = line.split(' ').map(String::from);
            (request.method, request.path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        }
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.from = value.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')?.parse().ok()),
            "if-range" => request.if_range = Some(value.to_string()),
            _ => {}
        }
    }
    Ok(request)
}

fn answer(mut stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut request = read(stream)?;
    if request.method == "CONNECT" {
        // A proxy is a tunnel; this one leads to itself.
        write!(stream, "HTTP/1.1 200 OK\r\n\r\n")?;
        request = read(stream)?;
    }
    let (bytes, etag, reply, gate) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        let circle = Some(request.path.as_str()).filter(|path| path.starts_with("/loop"));
        if let Some(target) = request.path.strip_prefix("/to").or(circle) {
            return write!(stream, "HTTP/1.1 302 X\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
        }
        let is_there = request.path == state.path;
        let reply = if is_there { state.script.pop_front() } else { Some(Reply::Status(404)) };
        (state.bytes.clone(), format!("\"v{}\"", state.edition), reply, state.gate.take())
    };
    if let Some(Reply::Status(status)) = reply {
        return write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let ranges = !matches!(reply, Some(Reply::CutWithoutRanges(_) | Reply::WholeWithoutRanges));
    let fits = request.if_range.as_ref().is_none_or(|validator| *validator == etag);
    let from = request.from.filter(|_| ranges && fits).unwrap_or(0) as usize;
    let body = &bytes[from.min(bytes.len())..];
    match from {
        0 => write!(stream, "HTTP/1.1 200 OK\r\n")?,
        from if from >= bytes.len() => {
            return write!(
                stream,
                "HTTP/1.1 416 X\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\n\r\n",
                bytes.len()
            );
        }
        from => write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\n",
            bytes.len() - 1,
            bytes.len()
        )?,
    }
    if !matches!(reply, Some(Reply::CutWithoutVersion(_))) {
        write!(stream, "ETag: {etag}\r\n")?;
    }
    write!(stream, "Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    let end = match reply {
        Some(Reply::Cut(end) | Reply::CutWithoutRanges(end) | Reply::CutWithoutVersion(end)) => end.min(body.len()),
        _ => body.len(),
    };
    match gate {
        Some((first, sent, go_on)) => {
            stream.write_all(&body[..first])?;
            let _ = sent.send(());
            let _ = go_on.recv();
            stream.write_all(&body[first..end])?;
        }
        None => stream.write_all(&body[..end])?,
    }
    stream.flush()
}
