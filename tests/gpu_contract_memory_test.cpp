// What the GPU driver promises about memory, on the emulated driver and on a real one. What would break: code
// that was tested on the emulator meets a device that answers otherwise.
#include <unistd.h>

#include <vector>

#include "tests/gpu_rig.h"

using namespace gpu_test;

TEST_CASE("X contract: reservations refuse wrong sizes, alignments and flags", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    DevicePointer address = 0;
    rig.expect(Probe::reserve_size_0, driver.mem_address_reserve(&address, 0, 0, 0, 0));
    rig.expect(Probe::reserve_odd_size, driver.mem_address_reserve(&address, kGranule + 1, 0, 0, 0));
    rig.expect(Probe::reserve_odd_alignment, driver.mem_address_reserve(&address, kGranule, 3 * kMiB, 0, 0));
    rig.expect(Probe::reserve_flags, driver.mem_address_reserve(&address, kGranule, 0, 0, 1));
    rig.expect(Probe::reserve_null, driver.mem_address_reserve(nullptr, kGranule, 0, 0, 0));
    rig.expect(Probe::reserve_too_much, driver.mem_address_reserve(&address, std::size_t{1} << 50, 0, 0, 0));
  });
}

TEST_CASE("X contract: reservations are aligned, apart from each other, and used again", "[gpu]") {
  for_each_driver([](Rig& rig) {
    DevicePointer first = 0, second = 0;
    REQUIRE(rig.driver.mem_address_reserve(&first, 6 * kMiB, 64 * kMiB, 0, 0) == Result::success);
    CHECK(first % (64 * kMiB) == 0);
    REQUIRE(rig.driver.mem_address_reserve(&second, 3 * kMiB, 0, 0, 0) == Result::success);
    CHECK((second >= first + 6 * kMiB || second + 3 * kMiB <= first));
    CHECK(rig.driver.mem_address_free(first, 6 * kMiB) == Result::success);
    CHECK(rig.driver.mem_address_free(second, 3 * kMiB) == Result::success);
  });
}

TEST_CASE("X contract: a reservation is freed as it was made, once, and empty", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const DevicePointer address = rig.memory(2 * kGranule);
    rig.expect(Probe::free_mapped, driver.mem_address_free(address, 2 * kGranule));
    CHECK(rig.read_word(address) == rig.read_word(address));  // still there
    REQUIRE(driver.mem_unmap(address, 2 * kGranule) == Result::success);
    rig.expect(Probe::free_other_size, driver.mem_address_free(address, kGranule));
    rig.expect(Probe::free_inside, driver.mem_address_free(address + kGranule, kGranule));
    REQUIRE(driver.mem_address_free(address, 2 * kGranule) == Result::success);
    rig.expect(Probe::free_twice, driver.mem_address_free(address, 2 * kGranule));
  });
}

TEST_CASE("X contract: physical memory is refused for wrong properties", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    MemoryHandle handle = 0;
    AllocationProperties wanted = Rig::properties();
    rig.expect(Probe::create_null, driver.mem_create(nullptr, kGranule, &wanted, 0));
    rig.expect(Probe::create_size_0, driver.mem_create(&handle, 0, &wanted, 0));
    rig.expect(Probe::create_odd_size, driver.mem_create(&handle, kGranule + 4096, &wanted, 0));
    rig.expect(Probe::create_no_properties, driver.mem_create(&handle, kGranule, nullptr, 0));
    rig.expect(Probe::create_flags, driver.mem_create(&handle, kGranule, &wanted, 1));
    wanted.location.id = 99;
    rig.expect(Probe::create_bad_device, driver.mem_create(&handle, kGranule, &wanted, 0));
    wanted = Rig::properties();
    wanted.type = AllocationType::invalid;
    rig.expect(Probe::create_bad_type, driver.mem_create(&handle, kGranule, &wanted, 0));
    wanted = Rig::properties(LocationType::host_numa_current);
    rig.expect(Probe::create_numa_current, driver.mem_create(&handle, kGranule, &wanted, 0));
    wanted = Rig::properties(LocationType::host);
    wanted.requested_handle_types = HandleType::posix_file_descriptor;
    rig.expect(Probe::create_host_exportable, driver.mem_create(&handle, kGranule, &wanted, 0));
    CHECK(handle == 0);
    int has_fabric = 0;
    CHECK(driver.device_get_attribute(&has_fabric, DeviceAttribute::handle_type_fabric_supported, 0) ==
          Result::success);
    if (has_fabric != 0) return;
    wanted = Rig::properties();
    wanted.requested_handle_types = HandleType::fabric;
    rig.expect(Probe::create_fabric, driver.mem_create(&handle, kGranule, &wanted, 0));
  });
}

TEST_CASE("X6 contract: a device out of memory says so and recovers", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    std::size_t free_bytes = 0, total_bytes = 0;
    REQUIRE(driver.mem_get_info(&free_bytes, &total_bytes) == Result::success);
    CHECK(free_bytes <= total_bytes);
    const AllocationProperties wanted = Rig::properties();
    MemoryHandle handle = 0;
    rig.expect(Probe::create_too_much,
               driver.mem_create(&handle, (total_bytes / kGranule + 1) * kGranule, &wanted, 0));
    const DevicePointer address = rig.memory(kGranule);
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X contract: creating takes from the free memory of the device, mapping does not", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    std::size_t before = 0, created = 0, mapped = 0, after = 0, total = 0;
    REQUIRE(driver.mem_get_info(&before, &total) == Result::success);
    const MemoryHandle handle = rig.create(4 * kGranule);
    REQUIRE(driver.mem_get_info(&created, &total) == Result::success);
    const DevicePointer address = rig.reserve(4 * kGranule);
    rig.map(address, 4 * kGranule, handle);
    REQUIRE(driver.mem_get_info(&mapped, &total) == Result::success);
    CHECK(before - created >= 4 * kGranule);
    CHECK(mapped == created);
    rig.expect(Probe::release_mapped, driver.mem_release(handle));
    REQUIRE(driver.mem_get_info(&mapped, &total) == Result::success);
    CHECK(mapped == created);  // the mapping keeps the memory
    rig.give_back(address, 4 * kGranule);
    REQUIRE(driver.mem_get_info(&after, &total) == Result::success);
    CHECK(after == before);
  });
}

TEST_CASE("X contract: mapping refuses what does not fit", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const DevicePointer address = rig.reserve(3 * kGranule);
    const MemoryHandle handle = rig.create(2 * kGranule);
    const DevicePointer behind = address + 3 * kGranule;
    DevicePointer gone = rig.reserve(kGranule);
    REQUIRE(driver.mem_address_free(gone, kGranule) == Result::success);
    rig.expect(Probe::map_not_reserved, driver.mem_map(gone, kGranule, 0, handle, 0));
    rig.expect(Probe::map_odd_address, driver.mem_map(address + 4096, kGranule, 0, handle, 0));
    rig.expect(Probe::map_odd_size, driver.mem_map(address, kGranule + 4096, 0, handle, 0));
    rig.expect(Probe::map_size_0, driver.mem_map(address, 0, 0, handle, 0));
    rig.expect(Probe::map_beyond_handle, driver.mem_map(address, 3 * kGranule, 0, handle, 0));
    rig.expect(Probe::map_beyond_reservation, driver.mem_map(behind - kGranule, 2 * kGranule, 0, handle, 0));
    rig.expect(Probe::map_offset, driver.mem_map(address, kGranule, kGranule, handle, 0));
    rig.expect(Probe::map_flags, driver.mem_map(address, kGranule, 0, handle, 1));
    rig.map(address, 2 * kGranule, handle);
    rig.expect(Probe::map_twice, driver.mem_map(address + kGranule, kGranule, 0, handle, 0));
    CHECK(driver.mem_unmap(address, 2 * kGranule) == Result::success);
    CHECK(driver.mem_address_free(address, 3 * kGranule) == Result::success);
    CHECK(driver.mem_release(handle) == Result::success);
  });
}

TEST_CASE("X contract: two addresses of one handle show the same bytes", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const MemoryHandle handle = rig.create(2 * kGranule);
    const DevicePointer first = rig.reserve(2 * kGranule), second = rig.reserve(kGranule);
    rig.map(first, 2 * kGranule, handle);
    rig.expect(Probe::map_alias, driver.mem_map(second, kGranule, 0, handle, 0));
    REQUIRE(rig.set_access(first, 2 * kGranule, kAccessReadWrite) == Result::success);
    REQUIRE(rig.set_access(second, kGranule, kAccessRead) == Result::success);
    REQUIRE(driver.memset_d32_async(first, 0x1234567, kGranule / 4, nullptr) == Result::success);
    REQUIRE(driver.ctx_synchronize() == Result::success);
    CHECK(rig.read_word(second + kGranule - 4) == 0x1234567);
    CHECK(driver.mem_release(handle) == Result::success);
    rig.give_back(second, kGranule);
    CHECK(rig.read_word(first) == 0x1234567);
    rig.give_back(first, 2 * kGranule);
  });
}

TEST_CASE("X contract: contents survive unmapping and mapping elsewhere, access does not", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const MemoryHandle handle = rig.create(2 * kGranule);
    const DevicePointer first = rig.reserve(2 * kGranule), second = rig.reserve(kGranule);
    rig.map(first, 2 * kGranule, handle);
    REQUIRE(rig.set_access(first, 2 * kGranule, kAccessReadWrite) == Result::success);
    REQUIRE(driver.memset_d32_async(first, 0xabcdef, kGranule / 2, nullptr) == Result::success);
    REQUIRE(driver.ctx_synchronize() == Result::success);
    REQUIRE(driver.mem_unmap(first, 2 * kGranule) == Result::success);
    rig.expect(Probe::map_prefix, driver.mem_map(second, kGranule, 0, handle, 0));
    std::uint32_t word = 0;
    rig.expect(Probe::copy_from_no_access, driver.memcpy_d2h(&word, second, sizeof word));
    REQUIRE(rig.set_access(second, kGranule, kAccessRead) == Result::success);
    CHECK(rig.read_word(second) == 0xabcdef);
    CHECK(rig.read_word(second + kGranule - 4) == 0xabcdef);
    rig.give_back(second, kGranule);
    CHECK(driver.mem_release(handle) == Result::success);
    CHECK(driver.mem_address_free(first, 2 * kGranule) == Result::success);
  });
}

TEST_CASE("X contract: only whole mappings are unmapped, several with one call", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const DevicePointer address = rig.reserve(4 * kGranule);
    const MemoryHandle handle = rig.create(2 * kGranule);
    rig.map(address, 2 * kGranule, handle);
    rig.map(address + 2 * kGranule, 2 * kGranule, handle);
    rig.expect(Probe::unmap_part, driver.mem_unmap(address, kGranule));
    rig.expect(Probe::unmap_part, driver.mem_unmap(address + kGranule, kGranule));
    rig.expect(Probe::unmap_part, driver.mem_unmap(address, 3 * kGranule));
    rig.expect(Probe::unmap_part, driver.mem_unmap(address + kGranule, 2 * kGranule));
    rig.expect(Probe::unmap_size_0, driver.mem_unmap(address, 0));
    rig.expect(Probe::unmap_null, driver.mem_unmap(0, kGranule));
    rig.expect(Probe::unmap_several, driver.mem_unmap(address, 4 * kGranule));
    rig.expect(Probe::unmap_twice, driver.mem_unmap(address, 4 * kGranule));
    CHECK(driver.mem_release(handle) == Result::success);
    rig.expect(Probe::unmap_never_mapped, driver.mem_unmap(address, kGranule));
    CHECK(driver.mem_address_free(address, 4 * kGranule) == Result::success);
  });
}

TEST_CASE("X contract: access is set on whole mappings, for locations that are", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const DevicePointer address = rig.reserve(3 * kGranule);
    const MemoryHandle handle = rig.create(2 * kGranule);
    rig.map(address, 2 * kGranule, handle);
    const AccessDescription access = {{LocationType::device, 0}, kAccessReadWrite};
    rig.expect(Probe::access_not_mapped, driver.mem_set_access(address + 2 * kGranule, kGranule, &access, 1));
    rig.expect(Probe::access_part, driver.mem_set_access(address, kGranule, &access, 1));
    rig.expect(Probe::access_part, driver.mem_set_access(address, 3 * kGranule, &access, 1));
    rig.expect(Probe::access_count_0, driver.mem_set_access(address, 2 * kGranule, &access, 0));
    rig.expect(Probe::access_null, driver.mem_set_access(address, 2 * kGranule, nullptr, 1));
    rig.expect(Probe::access_bad_location,
               rig.set_access(address, 2 * kGranule, kAccessRead, LocationType::invalid));
    rig.expect(Probe::access_bad_flag, rig.set_access(address, 2 * kGranule, static_cast<AccessFlags>(2)));
    rig.expect(Probe::access_host_on_device,
               rig.set_access(address, 2 * kGranule, kAccessReadWrite, LocationType::host_numa));
    unsigned long long flags = 99;
    CHECK(driver.mem_get_access(&flags, &access.location, address) == Result::success);
    CHECK(flags == kAccessNone);  // nothing of the above came through
    rig.map(address + 2 * kGranule, kGranule, handle);
    rig.expect(Probe::access_several, driver.mem_set_access(address, 3 * kGranule, &access, 1));
    CHECK(driver.mem_get_access(&flags, &access.location, address + 2 * kGranule + 5) == Result::success);
    CHECK(flags == kAccessReadWrite);
    CHECK(driver.mem_unmap(address, 3 * kGranule) == Result::success);
    rig.expect(Probe::get_access_not_mapped, driver.mem_get_access(&flags, &access.location, address));
    CHECK(driver.mem_release(handle) == Result::success);
    CHECK(driver.mem_address_free(address, 3 * kGranule) == Result::success);
  });
}

TEST_CASE("X contract: the handle of a mapped address is the one that was mapped", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const DevicePointer address = rig.reserve(2 * kGranule);
    const MemoryHandle handle = rig.create(kGranule);
    rig.map(address, kGranule, handle);
    CHECK(driver.mem_release(handle) == Result::success);
    MemoryHandle retained = 0;
    auto* inside = reinterpret_cast<void*>(static_cast<std::uintptr_t>(address + 12345));
    rig.expect(Probe::retain_inside, driver.mem_retain_handle(&retained, inside));
    CHECK(retained == handle);
    auto* beyond = reinterpret_cast<void*>(static_cast<std::uintptr_t>(address + kGranule));
    MemoryHandle none = 0;
    rig.expect(Probe::retain_not_mapped, driver.mem_retain_handle(&none, beyond));
    AllocationProperties found = {};
    CHECK(driver.mem_get_properties(&found, retained) == Result::success);
    CHECK(found.location.type == LocationType::device);
    CHECK(found.type == AllocationType::pinned);
    CHECK(driver.mem_unmap(address, kGranule) == Result::success);
    CHECK(driver.mem_release(retained) == Result::success);
    CHECK(driver.mem_address_free(address, 2 * kGranule) == Result::success);
  });
}

TEST_CASE("X contract: exporting wants the type that was asked for at creation", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    int descriptor = -1;
    constexpr HandleType kFile = HandleType::posix_file_descriptor;
    const MemoryHandle plain = rig.create(kGranule);
    rig.expect(Probe::export_not_asked_for, driver.mem_export_handle(&descriptor, plain, kFile, 0));
    CHECK(driver.mem_release(plain) == Result::success);
    AllocationProperties wanted = Rig::properties();
    wanted.requested_handle_types = kFile;
    MemoryHandle handle = 0;
    REQUIRE(driver.mem_create(&handle, kGranule, &wanted, 0) == Result::success);
    rig.expect(Probe::export_wrong_type, driver.mem_export_handle(&descriptor, handle, HandleType::win32, 0));
    rig.expect(Probe::export_null, driver.mem_export_handle(nullptr, handle, kFile, 0));
    rig.expect(Probe::export_flags, driver.mem_export_handle(&descriptor, handle, kFile, 1));
    CHECK(descriptor == -1);
    REQUIRE(driver.mem_export_handle(&descriptor, handle, kFile, 0) == Result::success);
    REQUIRE(descriptor >= 0);
    // What comes back shows the same bytes, also when the first handle is gone.
    MemoryHandle imported = 0;
    auto* shareable = reinterpret_cast<void*>(static_cast<std::intptr_t>(descriptor));
    REQUIRE(driver.mem_import_handle(&imported, shareable, kFile) == Result::success);
    ::close(descriptor);
    const DevicePointer first = rig.reserve(kGranule), second = rig.reserve(kGranule);
    rig.map(first, kGranule, handle);
    rig.map(second, kGranule, imported);
    CHECK(driver.mem_release(handle) == Result::success);
    CHECK(driver.mem_release(imported) == Result::success);
    REQUIRE(rig.set_access(first, kGranule, kAccessReadWrite) == Result::success);
    REQUIRE(rig.set_access(second, kGranule, kAccessReadWrite) == Result::success);
    REQUIRE(driver.memset_d32_async(first, 77, 8, nullptr) == Result::success);
    REQUIRE(driver.ctx_synchronize() == Result::success);
    rig.give_back(first, kGranule);
    CHECK(rig.read_word(second + 28) == 77);
    rig.give_back(second, kGranule);
  });
}

TEST_CASE("X contract: granularity is asked for correctly and is what the emulator has", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const AllocationProperties wanted = Rig::properties();
    std::size_t minimum = 0, recommended = 0;
    rig.expect(Probe::granularity_null,
               rig.driver.mem_get_granularity(nullptr, &wanted, Granularity::minimum));
    rig.expect(Probe::granularity_bad_flag,
               rig.driver.mem_get_granularity(&minimum, &wanted, static_cast<Granularity>(7)));
    CHECK(rig.driver.mem_get_granularity(&minimum, &wanted, Granularity::minimum) == Result::success);
    CHECK(rig.driver.mem_get_granularity(&recommended, &wanted, Granularity::recommended) == Result::success);
    CHECK(minimum == kGranule);
    CHECK(recommended == kGranule);
  });
}

TEST_CASE("X contract: plain allocations and their end", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    DevicePointer address = 0, base = 0;
    std::size_t size_bytes = 0;
    rig.expect(Probe::alloc_size_0, driver.mem_alloc(&address, 0));
    REQUIRE(driver.mem_alloc(&address, 3 * kMiB) == Result::success);
    CHECK(address % 256 == 0);
    REQUIRE(driver.memset_d8_async(address, 0x5a, 3 * kMiB, nullptr) == Result::success);
    CHECK(rig.read_word(address + 3 * kMiB - 4) == 0x5a5a5a5a);
    CHECK(driver.mem_get_address_range(&base, &size_bytes, address + 100) == Result::success);
    CHECK(base == address);
    CHECK(size_bytes >= 3 * kMiB);
    rig.expect(Probe::free_not_allocated, driver.mem_free(address + 256));
    CHECK(driver.mem_free(address) == Result::success);
    rig.expect(Probe::free_not_allocated, driver.mem_free(address));
  });
}

TEST_CASE("X contract: memory of the host is allocated and registered", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    std::uint32_t* pinned = rig.pinned(1000);
    rig.expect(Probe::free_host_not_allocated, driver.mem_free_host(pinned + 10));
    CHECK(driver.mem_free_host(pinned) == Result::success);
    std::vector<std::uint32_t> ours(64 * kKiB);
    rig.expect(Probe::unregister_unknown, driver.mem_host_unregister(ours.data()));
    REQUIRE(driver.mem_host_register(ours.data(), ours.size() * 4, 0) == Result::success);
    rig.expect(Probe::register_twice, driver.mem_host_register(ours.data(), ours.size() * 4, 0));
    CHECK(driver.mem_host_unregister(ours.data()) == Result::success);
  });
}

TEST_CASE("X contract: attributes of an address tell reservation, mapping and side", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const DevicePointer address = rig.reserve(4 * kGranule);
    const MemoryHandle handle = rig.create(kGranule);
    rig.map(address + kGranule, kGranule, handle);
    CHECK(driver.mem_release(handle) == Result::success);
    REQUIRE(rig.set_access(address + kGranule, kGranule, kAccessReadWrite) == Result::success);
    const DevicePointer inside = address + kGranule + 4096;
    DevicePointer start = 0;
    std::size_t size_bytes = 0;
    unsigned type = 0;
    CHECK(driver.pointer_get_attribute(&start, PointerAttribute::range_start, inside) == Result::success);
    CHECK(start == address);
    CHECK(driver.pointer_get_attribute(&size_bytes, PointerAttribute::range_size, inside) == Result::success);
    CHECK(size_bytes == 4 * kGranule);
    CHECK(driver.pointer_get_attribute(&start, PointerAttribute::mapping_base, inside) == Result::success);
    CHECK(start == address + kGranule);
    CHECK(driver.pointer_get_attribute(&size_bytes, PointerAttribute::mapping_size, inside) ==
          Result::success);
    CHECK(size_bytes == kGranule);
    CHECK(driver.pointer_get_attribute(&type, PointerAttribute::memory_type, inside) == Result::success);
    CHECK(type == static_cast<unsigned>(MemoryType::device));
    std::uint32_t local = 0;
    rig.expect(Probe::attribute_foreign,
               driver.pointer_get_attribute(&type, PointerAttribute::memory_type,
                                            reinterpret_cast<std::uintptr_t>(&local)));
    CHECK(driver.mem_unmap(address + kGranule, kGranule) == Result::success);
    CHECK(driver.mem_address_free(address, 4 * kGranule) == Result::success);
  });
}

TEST_CASE("X5 contract: memory of the host is used by both sides at one address", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    int is_supported = 0;
    REQUIRE(driver.device_get_attribute(&is_supported,
                                        DeviceAttribute::host_numa_virtual_memory_management_supported,
                                        0) == Result::success);
    if (is_supported == 0) {
      WARN("this device does not map memory of the host");
      return;
    }
    const DevicePointer address = rig.reserve(kGranule);
    const MemoryHandle handle = rig.create(kGranule, LocationType::host_numa);
    rig.map(address, kGranule, handle);
    CHECK(driver.mem_release(handle) == Result::success);
    REQUIRE(rig.set_access(address, kGranule, kAccessReadWrite) == Result::success);
    REQUIRE(rig.set_access(address, kGranule, kAccessReadWrite, LocationType::host_numa) == Result::success);
    auto* words = reinterpret_cast<volatile std::uint32_t*>(static_cast<std::uintptr_t>(address));
    words[3] = 31;
    CHECK(rig.read_word(address + 12) == 31);
    REQUIRE(rig.store_word(address + 16, 41, nullptr) == Result::success);
    REQUIRE(driver.ctx_synchronize() == Result::success);
    CHECK(words[4] == 41);
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X contract: backing moves to the host and back under a stable address", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const DevicePointer address = rig.reserve(kGranule), private_window = rig.reserve(kGranule);
    const MemoryHandle on_device = rig.create(kGranule);
    std::uint32_t* host = rig.pinned(kGranule / 4);
    const Stream mover = rig.stream();
    rig.map(address, kGranule, on_device);
    REQUIRE(rig.set_access(address, kGranule, kAccessReadWrite) == Result::success);
    REQUIRE(driver.memset_d32_async(address, 4711, kGranule / 4, mover) == Result::success);
    // Out: copy, wait, unmap; the handle is kept.
    REQUIRE(driver.memcpy_d2h_async(host, address, kGranule, mover) == Result::success);
    REQUIRE(driver.stream_synchronize(mover) == Result::success);
    REQUIRE(driver.mem_unmap(address, kGranule) == Result::success);
    CHECK(host[kGranule / 4 - 1] == 4711);
    // Back: into the handle at a private address, before the program's address has it again.
    host[0] = 4712;
    rig.map(private_window, kGranule, on_device);
    REQUIRE(rig.set_access(private_window, kGranule, kAccessReadWrite) == Result::success);
    REQUIRE(driver.memcpy_h2d_async(private_window, host, kGranule, mover) == Result::success);
    rig.map(address, kGranule, on_device);
    REQUIRE(rig.set_access(address, kGranule, kAccessReadWrite) == Result::success);
    REQUIRE(driver.stream_synchronize(mover) == Result::success);
    CHECK(rig.read_word(address) == 4712);
    CHECK(rig.read_word(address + kGranule - 4) == 4711);
    CHECK(driver.mem_release(on_device) == Result::success);
    rig.give_back(private_window, kGranule);
    rig.give_back(address, kGranule);
    CHECK(driver.stream_destroy(mover) == Result::success);
    CHECK(driver.mem_free_host(host) == Result::success);
  });
}
