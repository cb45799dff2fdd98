//! A program that uses its own devices and buffers.

mod common;

use std::sync::mpsc;
use std::time::Duration;

use c10d_core::{DType, ReduceOp};
use c10d_wgpu::Tensor;
use wgpu::util::DeviceExt;

const CAP: Duration = Duration::from_secs(30);

/// Opens a device as a program does. Returns `None` if there is no device.
fn open() -> Option<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()));
    let adapter = match adapter {
        Err(e @ wgpu::RequestAdapterError::NotFound { .. }) => {
            common::skip(e);
            return None;
        }
        adapter => adapter.unwrap(),
    };
    Some(pollster::block_on(adapter.request_device(&Default::default())).unwrap())
}

fn read(device: &wgpu::Device, queue: &wgpu::Queue, buffer: &wgpu::Buffer) -> Vec<f32> {
    let staging = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    queue.submit([encoder.finish()]);
    let (tell, told) = mpsc::channel();
    staging.map_async(wgpu::MapMode::Read, .., move |done| drop(tell.send(done)));
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    told.recv().unwrap().unwrap();
    let view = staging.get_mapped_range(..).unwrap();
    bytemuck::cast_slice(&view).to_vec()
}

#[test]
fn own_buffers_are_reduced_in_place() {
    let Some((device, queue)) = open() else { return };
    let gpu = c10d_wgpu::adopt(vec![(device.clone(), queue.clone())]).unwrap();
    let again = c10d_wgpu::adopt(vec![(device.clone(), queue.clone())]).err().unwrap();
    assert!(again.to_string().contains("already"), "{again}");
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let make = |values: &[f32], usage| {
        let contents = bytemuck::cast_slice(values);
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents, usage })
    };
    let refused = Tensor::new(&gpu, 0, make(&[1.0], wgpu::BufferUsages::STORAGE), DType::F32).unwrap_err();
    assert!(refused.to_string().contains("COPY_SRC"), "{refused}");
    let refused = Tensor::new(&gpu, 0, make(&[1.0, 2.0, 3.0], usage), DType::F64).unwrap_err();
    assert!(refused.to_string().contains("12 bytes"), "{refused}");
    c10d::builder()
        .backend("wgpu:gloo-like")
        .timeout(CAP)
        .run_ranks(2, |pg| {
            let buffer = make(&vec![pg.rank() as f32 + 0.5; 10_000], usage);
            let mut tensor = Tensor::new(&gpu, 0, buffer.clone(), DType::F32)?;
            pg.all_reduce(&mut tensor, ReduceOp::Sum)?;
            assert_eq!(read(&device, &queue, tensor.buffer()), vec![2.0; 10_000]);
            let tensor = pg.start(c10d::op::broadcast(tensor, 1)).wait()?;
            assert_eq!(read(&device, &queue, tensor.buffer()).len(), 10_000);
            pg.shutdown()
        })
        .unwrap();
}
