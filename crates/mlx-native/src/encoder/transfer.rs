//! Copies and fills on the device, recorded between dispatches.

use smallvec::SmallVec;

use super::capture::{CapturedNode, Transfer};
use super::{CommandEncoder, overlap};
use crate::backend::{Command, CopyBytes, FillBytes, Place};
use crate::buffer::{MemRange, MlxBuffer};
use crate::error::{Result, invalid};

impl CommandEncoder {
    /// Records a copy on the device: `byte_len` bytes of `from`, from byte `from_offset` on, to byte `to_offset` of `to`.
    /// Ordered with dispatches like a dispatch; no host is involved.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when nothing is to be copied, a range leaves its
    /// buffer, the two overlap, `to` is read-only, the device does not accept the memory, or the encoder was committed.
    pub fn copy_bytes(
        &mut self,
        from: &MlxBuffer,
        from_offset: usize,
        to: &MlxBuffer,
        to_offset: usize,
        byte_len: usize,
    ) -> Result<()> {
        let copy = CopyBytes {
            from: self.place("copy_bytes: from", from, from_offset, byte_len, false)?,
            to: self.place("copy_bytes: to", to, to_offset, byte_len, true)?,
        };
        let (read, written) = (copy.from.mem_range(), copy.to.mem_range());
        if overlap(read, written) {
            return invalid!(
                "copy_bytes: {byte_len} bytes from byte {from_offset} and from byte {to_offset} overlap"
            );
        }
        self.transfer(Transfer::Copy(copy), &[read], &[written])
    }

    /// Records a fill on the device: `byte_len` bytes of `to`, from byte `offset` on, become `value`. Ordered with
    /// dispatches like a dispatch.
    ///
    /// # Errors
    /// As [`copy_bytes`](Self::copy_bytes).
    pub fn fill_bytes(&mut self, to: &MlxBuffer, offset: usize, byte_len: usize, value: u8) -> Result<()> {
        let to = self.place("fill_bytes", to, offset, byte_len, true)?;
        let written = to.mem_range();
        self.transfer(Transfer::Fill(FillBytes { to, value }), &[], &[written])
    }

    fn place(
        &self,
        operation: &str,
        buffer: &MlxBuffer,
        offset: usize,
        byte_len: usize,
        is_written: bool,
    ) -> Result<Place> {
        if self.submission.is_some() {
            return invalid!("{operation}: the encoder was committed, nothing more can be recorded");
        }
        if byte_len == 0
            || offset
                .checked_add(byte_len)
                .is_none_or(|end| end > buffer.byte_len())
        {
            return invalid!(
                "{operation}: {byte_len} bytes from byte {offset} of a buffer of {} bytes",
                buffer.byte_len()
            );
        }
        self.check_memory(&operation, buffer, is_written)?;
        Ok(Place {
            allocation: buffer.allocation().clone(),
            offset: buffer.byte_offset() + offset,
            byte_len,
        })
    }

    fn transfer(&mut self, transfer: Transfer, reads: &[MemRange], writes: &[MemRange]) -> Result<()> {
        if let Some(capture) = &mut self.capture {
            capture.push(CapturedNode::Transfer(transfer));
            return Ok(());
        }
        if self.hazards.conflicts(reads, writes) {
            self.barrier();
        }
        self.hazards.add(reads, writes);
        self.work.commands.push(match transfer {
            Transfer::Copy(copy) => Command::Copy(copy),
            Transfer::Fill(fill) => Command::Fill(fill),
        });
        Ok(())
    }

    /// Records a captured copy or fill; its hazards are found anew.
    ///
    /// # Errors
    /// [`MlxError::InvalidArgument`](crate::MlxError::InvalidArgument) when the encoder was committed, or is of a device
    /// that does not accept the memory.
    pub fn replay_transfer(&mut self, transfer: &Transfer) -> Result<()> {
        if self.submission.is_some() {
            return invalid!("replay_transfer: the encoder was committed, nothing more can be recorded");
        }
        let (reads, writes) = transfer.places();
        for place in reads.iter().chain(writes) {
            self.check_allocation(&"replay_transfer", &place.allocation)?;
        }
        let [reads, writes] =
            [reads, writes].map(|places| places.iter().map(|p| p.mem_range()).collect::<SmallVec<[_; 1]>>());
        self.transfer(transfer.clone(), &reads, &writes)
    }
}
