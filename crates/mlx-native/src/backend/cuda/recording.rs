//! A stand-in for the driver that records the calls and runs no kernel.
//!
//! It holds the caller to the driver's rules: ranges inside allocations, sizes of grids and blocks, parameters as long as
//! the function wants them, functions of loaded modules only. Memory is the host's, at addresses that mean nothing to it.
//! The stream runs when it is waited for, or when the test lets it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex};

use super::compile::Finder;
use super::gpu::{Address, Facts, Failure, FunctionFacts, Gpu, Launch};
use super::nvrtc::Output;
use super::nvrtc::TextCompiler;

/// A call that went into the stream of work.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Launch {
        symbol: String,
        blocks: [u32; 3],
        threads: [u32; 3],
        shared_memory: u32,
        parameters: Vec<Vec<u8>>,
        early: bool,
    },
    Copy(Address, Address, usize),
    Fill(Address, usize, u8),
    Event,
    /// The calls since the last `Begin` ran as a graph, that of this number.
    Graph(usize),
    Begin,
}

/// What a test sees and steers.
#[derive(Default)]
pub(super) struct Log {
    pub calls: Vec<Call>,
    /// Loaded images with the function asked for.
    pub loaded: Vec<(String, String)>,
    /// Allocations by address.
    pub memory: BTreeMap<Address, Vec<u8>>,
    /// Most bytes that may be allocated at a time.
    pub room: Option<usize>,
    /// Failures to come, by name of the call.
    pub failures: HashMap<&'static str, Failure>,
    /// Facts of functions by symbol.
    pub functions: HashMap<String, FunctionFacts>,
    /// While set, nobody who waits for the stream comes through.
    pub held: bool,
    /// Graphs made so far.
    pub graphs: usize,
    next: Address,
}

impl Log {
    fn failure(&self, call: &'static str) -> Result<(), Failure> {
        self.failures.get(call).map_or(Ok(()), |f| Err(f.clone()))
    }

    /// `byte_len` bytes at `address`, which must lie in one allocation.
    pub fn range(&mut self, address: Address, byte_len: usize) -> &mut [u8] {
        let (start, memory) = self
            .memory
            .range_mut(..=address)
            .next_back()
            .expect("an address of an allocation");
        let offset = (address - start) as usize;
        &mut memory[offset..offset + byte_len]
    }
}

pub(super) struct Recording {
    facts: Facts,
    log: Arc<Mutex<Log>>,
    moved: Arc<Condvar>,
}

/// What an H100 says of itself.
pub(super) fn facts() -> Facts {
    Facts {
        name: "Recording".to_owned(),
        ordinal: 0,
        capability: 90,
        driver: (13, 0),
        memory: 80 << 30,
        max_threads: 1024,
        multiprocessors: 132,
        max_shared_memory: 48 << 10,
    }
}

impl Recording {
    pub fn new(facts: Facts) -> (Self, Arc<Mutex<Log>>, Arc<Condvar>) {
        let (log, moved) = (
            Arc::new(Mutex::new(Log {
                next: 1 << 32,
                ..Log::default()
            })),
            Arc::new(Condvar::new()),
        );
        (
            Recording {
                facts,
                log: log.clone(),
                moved: moved.clone(),
            },
            log,
            moved,
        )
    }

    fn pass(&self, call: &'static str) -> Result<(), Failure> {
        let mut log = self.log.lock().unwrap();
        while log.held {
            log = self.moved.wait(log).unwrap();
        }
        log.failure(call)
    }
}

pub(super) struct Function {
    symbol: String,
    facts: FunctionFacts,
    n_parameters: usize,
}

impl Gpu for Recording {
    type Function = Function;
    type Event = usize;
    /// Its number, and the shape that it has.
    type Graph = (usize, Vec<String>);

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn free_memory(&self) -> Result<usize, Failure> {
        let log = self.log.lock().unwrap();
        let used: usize = log.memory.values().map(Vec::len).sum();
        Ok(log.room.unwrap_or(self.facts.memory) - used)
    }

    fn allocate(&self, byte_len: usize, zeroed: bool) -> Result<Address, Failure> {
        let free = self.free_memory()?;
        let mut log = self.log.lock().unwrap();
        log.failure("allocate")?;
        if byte_len > free {
            return Err(Failure::new(2, "out of memory"));
        }
        let address = log.next;
        log.next += (byte_len as Address).next_multiple_of(256) + 4096;
        log.memory
            .insert(address, vec![if zeroed { 0 } else { 0xCD }; byte_len]);
        Ok(address)
    }

    fn free(&self, address: Address) {
        let freed = self.log.lock().unwrap().memory.remove(&address);
        assert!(freed.is_some(), "freed twice, or never allocated");
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), Failure> {
        let mut log = self.log.lock().unwrap();
        log.failure("upload")?;
        log.range(to, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    fn upload_large(&self, to: Address, bytes: &[u8]) -> Result<(), Failure> {
        self.upload(to, bytes)
    }

    fn download(&self, from: Address, out: &mut [u8]) -> Result<(), Failure> {
        let mut log = self.log.lock().unwrap();
        log.failure("download")?;
        out.copy_from_slice(log.range(from, out.len()));
        Ok(())
    }

    fn load(
        &self,
        image: &[u8],
        symbol: &str,
        variables: &[&str],
        _shared_memory: u32,
    ) -> Result<(Function, FunctionFacts), Failure> {
        let mut log = self.log.lock().unwrap();
        log.failure("load")?;
        let text =
            String::from_utf8(image.to_vec()).map_err(|_| Failure::new(200, "the image is invalid"))?;
        let head = format!("{symbol}(");
        let start = text
            .find(&head)
            .ok_or(Failure::new(500, "named symbol not found"))?
            + head.len();
        let end = start
            + text[start..]
                .find(") {")
                .ok_or(Failure::new(200, "the image is invalid"))?;
        let n_parameters = if start == end {
            0
        } else {
            text[start..end].matches(", ").count() + 1
        };
        // Commas of template arguments are none between parameters.
        let inner = text[start..end].matches("on_cuda::parameter<").count();
        for variable in variables {
            assert!(
                text.contains(&format!("char {variable}[")),
                "{variable} is not in the image"
            );
        }
        let facts = log.functions.get(symbol).cloned().unwrap_or(FunctionFacts {
            max_threads: 1024,
            shared_memory: 0,
            lengths: vec![1; variables.len()],
        });
        log.loaded.push((symbol.to_owned(), text));
        let function = Function {
            symbol: symbol.to_owned(),
            facts: facts.clone(),
            n_parameters: n_parameters - inner,
        };
        Ok((function, facts))
    }

    fn launch(&self, launch: Launch<'_, Function>) -> Result<(), Failure> {
        let mut log = self.log.lock().unwrap();
        log.failure("launch")?;
        let ([gx, gy, gz], [bx, by, bz]) = (launch.blocks, launch.threads);
        assert!(gx > 0 && gx <= i32::MAX as u32 && (1..=65535).contains(&gy) && (1..=65535).contains(&gz));
        let threads = bx * by * bz;
        assert!(threads > 0 && threads <= launch.function.facts.max_threads && bz <= 64);
        assert!(launch.shared_memory + launch.function.facts.shared_memory <= 227 << 10);
        assert_eq!(
            launch.parameters.len(),
            launch.function.n_parameters,
            "{}",
            launch.function.symbol
        );
        log.calls.push(Call::Launch {
            symbol: launch.function.symbol.clone(),
            blocks: launch.blocks,
            threads: launch.threads,
            shared_memory: launch.shared_memory,
            parameters: launch.parameters.iter().map(|p| p.to_vec()).collect(),
            early: launch.early,
        });
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, byte_len: usize) -> Result<(), Failure> {
        let mut log = self.log.lock().unwrap();
        log.failure("copy")?;
        let bytes = log.range(from, byte_len).to_vec();
        log.range(to, byte_len).copy_from_slice(&bytes);
        log.calls.push(Call::Copy(from, to, byte_len));
        Ok(())
    }

    fn fill(&self, to: Address, byte_len: usize, value: u8) -> Result<(), Failure> {
        let mut log = self.log.lock().unwrap();
        log.failure("fill")?;
        log.range(to, byte_len).fill(value);
        log.calls.push(Call::Fill(to, byte_len, value));
        Ok(())
    }

    fn begin_graph(&self) -> Result<(), Failure> {
        let mut log = self.log.lock().unwrap();
        log.failure("begin")?;
        log.calls.push(Call::Begin);
        Ok(())
    }

    fn run_graph(
        &self,
        put: Result<(), Failure>,
        known: Option<&(usize, Vec<String>)>,
    ) -> Result<Option<(usize, Vec<String>)>, Failure> {
        let mut log = self.log.lock().unwrap();
        let begun = log
            .calls
            .iter()
            .rposition(|c| *c == Call::Begin)
            .expect("a graph was begun");
        let of = |call: &Call| match call {
            Call::Launch { symbol, .. } => symbol.clone(),
            Call::Copy(..) => "copy".to_owned(),
            Call::Fill(..) => "fill".to_owned(),
            other => panic!("{other:?} inside a graph"),
        };
        let shape: Vec<String> = log.calls[begun + 1..].iter().map(of).collect();
        put?;
        log.failure("graph")?;
        if let Some(known) = known.filter(|k| k.1 == shape) {
            log.calls.push(Call::Graph(known.0));
            return Ok(None);
        }
        log.graphs += 1;
        let made = (log.graphs, shape);
        log.calls.push(Call::Graph(made.0));
        Ok(Some(made))
    }

    fn run_again(&self, graph: &(usize, Vec<String>)) -> Result<(), Failure> {
        let mut log = self.log.lock().unwrap();
        log.failure("graph")?;
        log.calls.push(Call::Graph(graph.0));
        Ok(())
    }

    fn record(&self) -> Result<usize, Failure> {
        let mut log = self.log.lock().unwrap();
        log.failure("record")?;
        log.calls.push(Call::Event);
        Ok(log.calls.len())
    }

    fn wait(&self, _event: &usize) -> Result<(), Failure> {
        self.pass("wait")
    }

    fn seconds(&self, from: &usize, to: &usize) -> Result<f64, Failure> {
        assert!(from < to);
        Ok((to - from) as f64)
    }

    fn wait_for_all(&self) -> Result<(), Failure> {
        self.pass("wait")
    }
}

/// A stand-in for NVRTC: its machine code is the text itself.
pub(super) struct Echo {
    pub capabilities: Vec<u32>,
    /// What was compiled.
    pub compiled: Arc<Mutex<Vec<Output>>>,
}

impl TextCompiler for Echo {
    fn version(&self) -> (u32, u32) {
        (12, 9)
    }

    fn capabilities(&self) -> Vec<u32> {
        self.capabilities.clone()
    }

    fn compile(&self, text: &str, output: Output) -> Result<Vec<u8>, String> {
        self.compiled.lock().unwrap().push(output);
        match text.split("refuse_this ").nth(1) {
            Some(words) => Err(words.split(';').next().unwrap_or_default().to_owned()),
            None => Ok(text.as_bytes().to_vec()),
        }
    }
}

impl Echo {
    /// A finder of it, and what it compiled.
    pub fn finder() -> (Finder, Arc<Mutex<Vec<Output>>>) {
        let compiled = Arc::new(Mutex::new(Vec::new()));
        let log = compiled.clone();
        let find: Finder = Box::new(move || {
            Ok(Box::new(Echo {
                capabilities: vec![80, 86, 90, 120],
                compiled: log.clone(),
            }) as Box<dyn TextCompiler>)
        });
        (find, compiled)
    }
}
