//! A stand-in for Metal that records the calls and runs nothing.
//!
//! It holds the caller to Metal's rules: calls only inside a pool, offsets inside buffers, indices and lengths within
//! bounds. Memory is the host's. A command buffer ends when it is committed, or when the test says so.

use std::any::Any;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::gpu::{Commands, Completion, Ended, Facts, Gpu, GpuError, PipelineFacts};
use crate::kernel::ConstantValue;

pub(super) const PAGE: usize = 16384;

/// A call of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Pipeline(String),
    /// Number of the buffer, offset, index.
    Buffer(usize, usize, usize),
    Bytes(Vec<u8>, usize),
    ThreadgroupMemory(usize, usize),
    Threads([usize; 3], [usize; 3]),
    Threadgroups([usize; 3], [usize; 3]),
    /// The encoder before ended, another one begins.
    Encoder {
        copies: bool,
    },
    /// Numbers of the buffers, offsets, bytes.
    Copy((usize, usize), (usize, usize), usize),
    /// Number of the buffer, range, value.
    Fill(usize, std::ops::Range<usize>, u8),
    Barrier,
    Signpost(String),
}

/// What a test sees and steers.
#[derive(Default)]
pub(super) struct Log {
    /// Committed command buffers: label and calls.
    pub committed: Vec<(String, Vec<Call>)>,
    /// Other calls, in words.
    pub events: Vec<String>,
    /// The completions of committed command buffers, if they are held back.
    pub waiting: VecDeque<Completion>,
    pub hold_back: bool,
    /// Errors by the number of the command buffer.
    pub errors: HashMap<usize, GpuError>,
    /// Calls to fail, by name.
    pub refuse: Vec<&'static str>,
    /// Bytes of threadgroup memory that pipelines declare, by name.
    pub static_memory: HashMap<String, usize>,
    pub simd_width: Option<usize>,
}

pub(super) struct Recording {
    facts: Facts,
    log: Arc<Mutex<Log>>,
    buffers: AtomicUsize,
}

thread_local! {
    static POOLS: Cell<usize> = const { Cell::new(0) };
}

fn in_pool() {
    assert!(POOLS.get() > 0, "a call outside a pool");
}

/// What an M1 says of itself.
pub(super) fn facts() -> Facts {
    Facts {
        name: "Recording".to_owned(),
        architecture: "applegpu_g13g".to_owned(),
        os: "Version 15.0 (Build 24A1)".to_owned(),
        page: PAGE,
        unified_memory: true,
        max_buffer_len: 1 << 33,
        recommended_working_set: 11 << 30,
        max_threadgroup_memory: 32 << 10,
        max_threads: 1024,
        apple7: true,
        metal3: true,
        residency_sets: true,
        traces: true,
    }
}

impl Recording {
    pub fn new(facts: Facts) -> (Self, Arc<Mutex<Log>>) {
        let log = Arc::new(Mutex::new(Log::default()));
        let gpu = Recording {
            facts,
            log: log.clone(),
            buffers: AtomicUsize::new(0),
        };
        (gpu, log)
    }

    fn event(&self, text: String) {
        in_pool();
        self.log.lock().unwrap().events.push(text);
    }

    fn refused(&self, call: &str) -> Result<(), String> {
        if self.log.lock().unwrap().refuse.contains(&call) {
            return Err(format!("{call} refused"));
        }
        Ok(())
    }
}

pub(super) struct Buffer {
    pub number: usize,
    ptr: NonNull<u8>,
    byte_len: usize,
    _memory: Vec<u128>,
    _owner: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: the memory is owned or kept by the owner, and plain.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

pub(super) struct Library {
    pub text: String,
}

pub(super) struct Pipeline {
    name: String,
    facts: PipelineFacts,
}

pub(super) struct Recorder {
    label: String,
    calls: Vec<Call>,
    pipeline: bool,
    /// Whether the open encoder is one for copies.
    copies: bool,
    /// Whether the fence was waited for first, and updated last.
    fence: (bool, bool),
    log: Arc<Mutex<Log>>,
}

impl Gpu for Recording {
    type Buffer = Buffer;
    type Library = Library;
    type Function = String;
    type Archive = Mutex<Vec<String>>;
    type Pipeline = Pipeline;
    type Commands = Recorder;

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn pool<R>(f: impl FnOnce() -> R) -> R {
        POOLS.set(POOLS.get() + 1);
        let result = f();
        POOLS.set(POOLS.get() - 1);
        result
    }

    fn new_buffer(&self, byte_len: usize) -> Option<Buffer> {
        self.event(format!("buffer {byte_len}"));
        self.refused("buffer").ok()?;
        // Room to begin at a multiple of 64, as the contract of backends wants it.
        let mut memory = vec![0u128; byte_len.div_ceil(16) + 4];
        let start = memory.as_mut_ptr().cast::<u8>();
        let ptr = NonNull::new(start.wrapping_add(start.align_offset(64)))?;
        Some(Buffer {
            number: self.buffers.fetch_add(1, Relaxed),
            ptr,
            byte_len,
            _memory: memory,
            _owner: None,
        })
    }

    unsafe fn wrap_pages(
        &self,
        start: NonNull<u8>,
        byte_len: usize,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Option<Buffer> {
        assert!((start.as_ptr() as usize).is_multiple_of(PAGE) && byte_len.is_multiple_of(PAGE));
        assert!(byte_len > 0 && byte_len <= self.facts.max_buffer_len);
        self.event(format!("wrap {byte_len}"));
        self.refused("wrap").ok()?;
        Some(Buffer {
            number: self.buffers.fetch_add(1, Relaxed),
            ptr: start,
            byte_len,
            _memory: Vec::new(),
            _owner: Some(owner),
        })
    }

    fn contents(buffer: &Buffer) -> NonNull<u8> {
        buffer.ptr
    }

    fn add_resident(&self, buffer: &Buffer, wired: bool) {
        let how = if wired { " wired" } else { "" };
        self.event(format!("resident {}{how}", buffer.number));
    }

    fn remove_resident(&self, buffer: &Buffer) {
        self.event(format!("not resident {}", buffer.number));
    }

    fn new_library(&self, text: &str, fast_math: bool) -> Result<Library, String> {
        let how = if fast_math { " fast" } else { "" };
        self.event(format!("library{how}"));
        self.refused("library")?;
        Ok(Library {
            text: text.to_owned(),
        })
    }

    fn new_function(
        &self,
        library: &Library,
        name: &str,
        constants: &[(u32, ConstantValue)],
    ) -> Result<String, String> {
        in_pool();
        assert!(library.text.contains(name), "the text has no {name}");
        Ok(format!("{name} {constants:?}"))
    }

    fn open_archive(&self, path: Option<&Path>) -> Result<Self::Archive, String> {
        self.event(
            if path.is_some() {
                "archive read"
            } else {
                "archive new"
            }
            .to_owned(),
        );
        self.refused("archive")?;
        let Some(path) = path else {
            return Ok(Mutex::default());
        };
        let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
        let function = text.strip_prefix("archive of ").ok_or("not an archive")?;
        Ok(Mutex::new(vec![function.to_owned()]))
    }

    fn add_to_archive(&self, archive: &Self::Archive, function: &String, _label: &str) -> Result<(), String> {
        in_pool();
        self.refused("add")?;
        archive.lock().unwrap().push(function.clone());
        Ok(())
    }

    fn save_archive(&self, archive: &Self::Archive, path: &Path) -> Result<(), String> {
        in_pool();
        self.refused("save")?;
        let text = format!("archive of {}", archive.lock().unwrap().join(","));
        std::fs::write(path, text).map_err(|e| e.to_string())
    }

    fn new_pipeline(
        &self,
        function: &String,
        label: &str,
        archive: Option<&Self::Archive>,
    ) -> Result<Pipeline, String> {
        let held = archive.is_some_and(|a| a.lock().unwrap().contains(function));
        self.event(format!(
            "pipeline {label}{}",
            if held { " from archive" } else { "" }
        ));
        self.refused("pipeline")?;
        let log = self.log.lock().unwrap();
        Ok(Pipeline {
            name: label.to_owned(),
            facts: PipelineFacts {
                max_threads: 1024,
                simd_width: log.simd_width.unwrap_or(32),
                static_threadgroup_memory: log.static_memory.get(label).copied().unwrap_or(0),
            },
        })
    }

    fn pipeline_facts(pipeline: &Pipeline) -> PipelineFacts {
        pipeline.facts
    }

    fn begin(&self, label: &str) -> Option<Recorder> {
        in_pool();
        self.refused("begin").ok()?;
        Some(Recorder {
            label: label.to_owned(),
            calls: Vec::new(),
            pipeline: false,
            copies: false,
            fence: (false, false),
            log: self.log.clone(),
        })
    }

    fn start_trace(&self, path: &Path) -> Result<(), String> {
        self.event(format!("trace to {}", path.display()));
        self.refused("trace")
    }

    fn stop_trace(&self) {
        self.event("trace ends".to_owned());
    }
}

impl Recorder {
    fn next_encoder(&mut self, copies: bool) -> bool {
        self.call_between(Call::Encoder { copies });
        let refused = self.log.lock().unwrap().refuse.contains(&"encoder");
        (self.copies, self.pipeline, self.fence) = (copies, false, (false, false));
        !refused
    }

    fn call_between(&mut self, call: Call) {
        in_pool();
        assert_eq!(self.fence, (true, true), "an encoder out of the queue's order");
        self.calls.push(call);
    }

    fn call(&mut self, call: Call) {
        in_pool();
        assert_eq!(
            self.fence,
            (true, false),
            "{call:?} is not between the fence's wait and its update"
        );
        self.calls.push(call);
    }
}

impl Commands<Recording> for Recorder {
    fn wait_for_fence(&mut self) {
        in_pool();
        assert!(!self.fence.0);
        self.fence.0 = true;
    }

    fn update_fence(&mut self) {
        in_pool();
        assert_eq!(self.fence, (true, false));
        self.fence.1 = true;
    }

    fn set_pipeline(&mut self, pipeline: &Pipeline) {
        self.pipeline = true;
        self.call(Call::Pipeline(pipeline.name.clone()));
    }

    fn set_buffer(&mut self, buffer: &Buffer, offset: usize, index: usize) {
        assert!(index < 31 && offset < buffer.byte_len);
        self.call(Call::Buffer(buffer.number, offset, index));
    }

    fn set_bytes(&mut self, bytes: &[u8], index: usize) {
        assert!(index < 31 && (1..=4096).contains(&bytes.len()));
        self.call(Call::Bytes(bytes.to_vec(), index));
    }

    fn set_threadgroup_memory(&mut self, byte_len: usize, index: usize) {
        assert!(byte_len.is_multiple_of(16) && index < 31);
        self.call(Call::ThreadgroupMemory(byte_len, index));
    }

    fn dispatch_threads(&mut self, threads: [usize; 3], group: [usize; 3]) {
        assert!(self.pipeline && !threads.contains(&0) && !group.contains(&0));
        self.call(Call::Threads(threads, group));
    }

    fn dispatch_threadgroups(&mut self, groups: [usize; 3], group: [usize; 3]) {
        assert!(self.pipeline && !groups.contains(&0) && !group.contains(&0));
        self.call(Call::Threadgroups(groups, group));
    }

    fn begin_copies(&mut self) -> bool {
        self.next_encoder(true)
    }

    fn begin_dispatches(&mut self) -> bool {
        self.next_encoder(false)
    }

    fn copy_buffer(
        &mut self,
        from: &Buffer,
        from_offset: usize,
        to: &Buffer,
        to_offset: usize,
        byte_len: usize,
    ) {
        assert!(
            self.copies && from_offset + byte_len <= from.byte_len && to_offset + byte_len <= to.byte_len
        );
        assert!(
            [from_offset, to_offset, byte_len]
                .iter()
                .all(|n| n.is_multiple_of(4))
        );
        self.call(Call::Copy(
            (from.number, from_offset),
            (to.number, to_offset),
            byte_len,
        ));
    }

    fn fill_buffer(&mut self, buffer: &Buffer, range: std::ops::Range<usize>, value: u8) {
        assert!(
            self.copies
                && range.end <= buffer.byte_len
                && range.start.is_multiple_of(4)
                && range.end.is_multiple_of(4)
        );
        self.call(Call::Fill(buffer.number, range, value));
    }

    fn barrier(&mut self) {
        self.call(Call::Barrier);
    }

    fn signpost(&mut self, label: &str) {
        self.call(Call::Signpost(label.to_owned()));
    }

    fn commit(self, done: Completion) {
        in_pool();
        assert_eq!(self.fence, (true, true), "an encoder out of the queue's order");
        let mut log = self.log.lock().unwrap();
        let number = log.committed.len();
        log.committed.push((self.label, self.calls));
        let error = log.errors.get(&number).cloned();
        let done: Completion = Box::new(move |mut ended: Ended| {
            ended.error = error;
            (ended.start, ended.end) = (number as f64, number as f64 + 0.5);
            done(ended);
        });
        if log.hold_back {
            log.waiting.push_back(done);
        } else {
            drop(log);
            done(plain_end());
        }
    }
}

/// The end that the stand-in fills in.
pub(super) fn plain_end() -> Ended {
    Ended {
        error: None,
        start: 0.0,
        end: 0.0,
    }
}
