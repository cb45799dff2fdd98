//! Copies and kernels (compute shaders). wgpu copies only whole 32-bit words, between different buffers. A kernel makes
//! all other copies to the device and inside the device.
#![allow(unsafe_code)]

use c10d_core::Result;
use c10d_core::device::Stream;
use wgpu::BufferUsages;

use crate::gpu::{Gpu, PIECE};
use crate::kernel::Kernel;

#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) offset: u64,
}

impl Region {
    fn after(&self, bytes: u64) -> Region {
        Region { buffer: self.buffer.clone(), offset: self.offset + bytes }
    }
}

const WORD: u64 = 4;

fn down(x: u64, to: u64) -> u64 {
    x / to * to
}

impl Gpu {
    /// Enqueues a copy from host memory. The host memory is read before the call returns.
    ///
    /// # Safety
    /// `from` has `bytes` readable bytes.
    pub(crate) unsafe fn copy_in(&self, stream: Stream, to: &Region, from: *const u8, bytes: usize) -> Result {
        self.check()?;
        // Earlier copies of the stream may still have to write this host memory.
        let range = from.addr()..from.addr() + bytes;
        for arrival in self.streams.lock().overlapping(stream, &range) {
            while !arrival.is_done() {
                self.pause()?;
                self.check()?;
            }
        }
        // SAFETY: the caller guarantees `bytes` readable bytes.
        let data = unsafe { std::slice::from_raw_parts(from, bytes) };
        let end = to.offset + bytes as u64;
        let words = to.offset.next_multiple_of(WORD).min(end)..down(end, WORD);
        let words = words.start..words.end.max(words.start);
        let part = |from: u64, until: u64| &data[(from - to.offset) as usize..(until - to.offset) as usize];
        let mut at = words.start;
        while at < words.end {
            let next = (at + PIECE).min(words.end);
            self.queue.write_buffer(&to.buffer, at, part(at, next));
            self.queue.submit([]);
            at = next;
        }
        for (from, until) in [(to.offset, words.start), (words.end, end)] {
            if from < until {
                let mut edge = [0u8; 8];
                edge[..(until - from) as usize].copy_from_slice(part(from, until));
                let edge = Region { buffer: self.constant(&edge, BufferUsages::STORAGE), offset: 0 };
                self.run(Kernel::Copy, &Region { offset: from, ..to.clone() }, &edge, until - from)?;
            }
        }
        Ok(())
    }

    /// Enqueues a copy to host memory. The host memory is written when the queue's callbacks run.
    ///
    /// # Safety
    /// `to` has `bytes` writable bytes until the stream has finished the copy.
    pub(crate) unsafe fn copy_out(&self, stream: Stream, to: *mut u8, from: &Region, bytes: usize) -> Result {
        self.check()?;
        let address = to.expose_provenance();
        let mut done = 0;
        while done < bytes {
            let piece = (bytes - done).min(PIECE as usize);
            let first = from.offset + done as u64;
            let window = down(first, WORD)..(first + piece as u64).next_multiple_of(WORD);
            let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("c10d copy out"),
                size: window.end - window.start,
                usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&from.buffer, window.start, &staging, 0, window.end - window.start);
            self.queue.submit([encoder.finish()]);
            let to = address + done;
            let arrival = self.streams.lock().arrival(stream, to..to + piece);
            let (failure, mapped, skip) = (self.failure(), staging.clone(), (first - window.start) as usize);
            staging.map_async(wgpu::MapMode::Read, .., move |result| {
                let view = result.map_err(|e| e.to_string());
                match view.and_then(|()| mapped.get_mapped_range(..).map_err(|e| e.to_string())) {
                    Ok(view) => {
                        let to = std::ptr::with_exposed_provenance_mut::<u8>(to);
                        // SAFETY: the caller keeps the memory until the stream has finished the copy. The copy counts
                        // as finished only after the call of `finish` below.
                        unsafe { to.copy_from_nonoverlapping(view[skip..].as_ptr(), piece) };
                    }
                    Err(what) => drop(failure.set(format!("a copy to the host failed: {what}"))),
                }
                mapped.unmap();
                arrival.finish();
            });
            done += piece;
        }
        Ok(())
    }

    /// Enqueues a copy inside the device.
    pub(crate) fn copy(&self, to: &Region, from: &Region, bytes: u64) -> Result {
        self.check()?;
        let whole_words = [to.offset, from.offset, bytes].iter().all(|x| x.is_multiple_of(WORD));
        if !whole_words || to.buffer == from.buffer {
            return self.run(Kernel::Copy, to, from, bytes);
        }
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &to.buffer, to.offset, bytes);
        self.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// Enqueues a kernel over `bytes` bytes of elements. The range is divided into pieces that fit a binding.
    pub(crate) fn run(&self, kernel: Kernel, acc: &Region, other: &Region, bytes: u64) -> Result {
        self.check()?;
        let limits = self.device.limits();
        let align = u64::from(limits.min_storage_buffer_offset_alignment);
        // Bindings are aligned, so the binding of a piece may be larger than the piece.
        let most = PIECE.min(down(limits.max_storage_buffer_binding_size.saturating_sub(2 * align), 256)).max(256);
        let mut done = 0;
        while done < bytes {
            let piece = (bytes - done).min(most);
            let (acc, mut other) = (acc.after(done), other.after(done));
            if acc.buffer == other.buffer {
                // A buffer cannot be bound for reading and for writing in one dispatch.
                other = self.aside(&other, piece);
            }
            self.dispatch(kernel, &acc, &other, piece, align)?;
            done += piece;
        }
        Ok(())
    }

    /// Copies the bytes to a new buffer.
    fn aside(&self, from: &Region, bytes: u64) -> Region {
        let window = down(from.offset, WORD)..(from.offset + bytes).next_multiple_of(WORD);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("c10d aside"),
            size: window.end - window.start,
            usage: BufferUsages::STORAGE | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from.buffer, window.start, &buffer, 0, window.end - window.start);
        self.queue.submit([encoder.finish()]);
        Region { buffer, offset: from.offset - window.start }
    }

    fn dispatch(&self, kernel: Kernel, acc: &Region, other: &Region, bytes: u64, align: u64) -> Result {
        let pipeline = self.pipeline(kernel)?;
        let window = |region: &Region| {
            let start = down(region.offset, align);
            (start, (region.offset + bytes).next_multiple_of(WORD) - start)
        };
        let ((acc_start, acc_size), (other_start, other_size)) = (window(acc), window(other));
        let numbers = [acc.offset - acc_start, other.offset - other_start, bytes, 0];
        let params: Vec<u8> = numbers.iter().flat_map(|x| (*x as u32).to_le_bytes()).collect();
        let params = self.constant(&params, BufferUsages::UNIFORM);
        let bound = |buffer, offset, size| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(size) })
        };
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("c10d"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: bound(&acc.buffer, acc_start, acc_size) },
                wgpu::BindGroupEntry { binding: 1, resource: bound(&other.buffer, other_start, other_size) },
                wgpu::BindGroupEntry { binding: 2, resource: bound(&params, 0, 16) },
            ],
        });
        let words = ((acc.offset + bytes).next_multiple_of(WORD) - down(acc.offset, WORD)) / WORD;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(words.div_ceil(256) as u32, 1, 1);
        }
        self.queue.submit([encoder.finish()]);
        Ok(())
    }
}
