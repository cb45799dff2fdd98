//! Plugins whose entry returns data that breaks the contract. These plugins are loaded, so their constructor runs; this
//! constructor does not make the canary (the file by which tests notice that code of a plugin ran). Every function of
//! their tables makes the canary.

use c10d_privateuse::Rule;

use super::elf::entry;
use super::lab::Entry;

macro_rules! table {
    ($name:literal, $($definition:literal),*) => {
        entry!(Table $name, |lab, to| {
            let own = format!("NAME=\"{}{}\"", lab.prefix, $name.replace(' ', "-").to_lowercase());
            lab.compile(to, &["QUIET_CONSTRUCTOR", &own, $($definition),*], &[]);
        })
    };
}

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        table!("null", "AT_ENTRY=return 0"),
        table!("wild pointer", "AT_ENTRY=return (void*)0x5a5a5a5a5a5a5a58"),
        table!("forbidden pointer", "AT_ENTRY=return mmap(0,4096,PROT_NONE,MAP_PRIVATE|MAP_ANONYMOUS,-1,0)"),
        table!("odd pointer", "AT_ENTRY=return (void*)((char*)&plugin+1)"),
        table!("good at an odd place", "AT_ENTRY=static char room[99];return memcpy(room+1,&plugin,sizeof plugin)"),
        table!("without its last field", "AT_ENTRY=plugin.struct_size=48"),
        table!("long version", "AT_ENTRY=static char room[300];plugin.version=room,plugin.version_len=300"),
        table!("size 0", "AT_ENTRY=plugin.struct_size=0"),
        table!("a size that is not mapped", "AT_ENTRY=plugin.struct_size=1000;return at_the_edge()"),
        table!("a size above the limit", "AT_ENTRY=plugin.struct_size=65000"),
        table!("size of four gigabytes", "AT_ENTRY=plugin.struct_size=0xffffffff"),
        table!("another name", "AT_ENTRY=plugin.name=\"other\",plugin.name_len=5"),
        table!("wild name", "AT_ENTRY=plugin.name=(char*)16"),
        table!("long name", "AT_ENTRY=plugin.name_len=1u<<31"),
        table!("wild version", "AT_ENTRY=plugin.version=(char*)16,plugin.version_len=3"),
        table!("neither device nor collectives", "AT_ENTRY=plugin.device=0"),
        table!("wild device", "AT_ENTRY=plugin.device=(void*)4096"),
        table!("device without copy", "AT_ENTRY=broken.copy=0,plugin.device=&broken"),
        table!("device without allocate", "AT_ENTRY=broken.allocate=0,plugin.device=&broken"),
        table!("function that is data", "AT_ENTRY=broken.copy=(void*)&plugin,plugin.device=&broken"),
        table!("function that is not mapped", "AT_ENTRY=broken.free=(void*)64,plugin.device=&broken"),
        table!("device of size 4", "AT_ENTRY=broken.struct_size=4,plugin.device=&broken"),
        table!("device without count", "AT_ENTRY=broken.count=0,plugin.device=&broken"),
        table!("device without free", "AT_ENTRY=broken.free=0,plugin.device=&broken"),
        table!("device without copy_in", "AT_ENTRY=broken.copy_in=0,plugin.device=&broken"),
        table!("device without copy_out", "AT_ENTRY=broken.copy_out=0,plugin.device=&broken"),
        table!("streams without create_stream", "STREAMS", "AT_ENTRY=broken.create_stream=0,plugin.device=&broken"),
        table!("streams without destroy_stream", "STREAMS", "AT_ENTRY=broken.destroy_stream=0,plugin.device=&broken"),
        table!("streams without create_event", "STREAMS", "AT_ENTRY=broken.create_event=0,plugin.device=&broken"),
        table!("streams without destroy_event", "STREAMS", "AT_ENTRY=broken.destroy_event=0,plugin.device=&broken"),
        table!("streams without record", "STREAMS", "AT_ENTRY=broken.record=0,plugin.device=&broken"),
        table!("streams without wait", "STREAMS", "AT_ENTRY=broken.wait=0,plugin.device=&broken"),
        table!("streams without query", "STREAMS", "AT_ENTRY=broken.query=0,plugin.device=&broken"),
        table!("release without retain", "AT_ENTRY=broken.release=release,plugin.device=&broken"),
        table!("allocate_host without free_host", "AT_ENTRY=broken.allocate_host=allocate_host,plugin.device=&broken"),
        table!("free_host without allocate_host", "AT_ENTRY=broken.free_host=free_host,plugin.device=&broken"),
        table!("reduces without reduce", "AT_ENTRY=broken.reduces=reduces,plugin.device=&broken"),
        table!("no create_group", "COLLECTIVES", "CREATE=0"),
        table!("no destroy_group", "COLLECTIVES", "DESTROY=0"),
        table!("no submit", "COLLECTIVES", "SUBMIT=0"),
        table!("no abort", "COLLECTIVES", "ABORT=0"),
        table!("no capabilities", "COLLECTIVES", "ROWS=0"),
        table!("a million capabilities", "COLLECTIVES", "ROWS=1000000"),
        table!("two rows for one device", "COLLECTIVES", "ROWS=2"),
        table!("no ops", "COLLECTIVES", "OPS=0"),
        table!("collectives for an unknown type", "COLLECTIVES", "DEVICE_TYPE=7"),
        table!("collectives for a device it does not have", "COLLECTIVES", "DEVICE_TYPE=C10D_DEVICE_PRIVATE"),
        table!("collectives for CUDA without a device", "COLLECTIVES", "DEVICE_TYPE=C10D_DEVICE_CUDA"),
        table!("collectives for CUDA with another device", "COLLECTIVES", "RETAINS", "DEVICE_TYPE=C10D_DEVICE_CUDA"),
        table!("collectives for device without retain", "COLLECTIVES", "DRIVES=12", "DEVICE_TYPE=C10D_DEVICE_PRIVATE"),
        table!("collectives for two devices", "COLLECTIVES", "RETAINS", "DEVICE_TYPE=12", "ROWS=2", "OTHER_TYPE=2"),
        table!("a device that is the host", "DRIVES=1"),
        table!("a device of an unknown type", "DRIVES=77"),
        table!("types by op nowhere", "COLLECTIVES", "BY_OP=.op_count=20,.by_op=(const uint32_t*)16"),
        table!("types by op at an odd place", "COLLECTIVES", "BY_OP=.op_count=1,.by_op=(const uint32_t*)(OWNER+1)"),
        table!("types of more ops than there can be", "COLLECTIVES", "BY_OP=.op_count=65,.by_op=(const uint32_t*)rows"),
        table!("types of a million ops", "COLLECTIVES", "BY_OP=.op_count=1000000,.by_op=(const uint32_t*)rows"),
    ]
}
