// Asset files: what goes in comes out by name and by number, in whole and in part; what is damaged is refused
// with the right words; the file at the path is always a whole one.
#include "src/paging/asset_file.h"

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "src/paging/checksum.h"
#include "tests/failing_calls.h"
#include "tests/store_rig.h"

#include "tests/catch.h"
#include "tests/heap_child.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

using Contents = std::map<std::string, Bytes>;

AssetProblem write_asset(const std::string& path, const Contents& contents, Codec codec = Codec::lz4) {
  Scratch scratch;
  AssetWriter writer;
  if (!scratch.open(codec)) return AssetProblem::no_memory;
  AssetProblem problem = writer.open(path.c_str(), codec);
  for (auto at = contents.rbegin(); at != contents.rend() && problem == AssetProblem::none; ++at) {
    problem = writer.add(at->first, at->second.data(), at->second.size(), scratch);
  }
  return problem == AssetProblem::none ? writer.finish() : problem;
}

Contents some_contents() {
  Contents contents;
  const std::size_t sizes[] = {0, 1, 7, 4096, 65535, 65536, 65537, 300'000};
  for (unsigned kind = 0; kind < kKinds; ++kind) {
    for (const std::size_t size : sizes) {
      contents["object " + std::to_string(kind) + "/" + std::to_string(size)] =
          make_object(static_cast<Kind>(kind), size, size + kind);
    }
  }
  return contents;
}

std::vector<char> load(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void save(const std::string& path, const std::vector<char>& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

AssetProblem open_problem(const std::string& path) {
  AssetFile file;
  return file.open(path.c_str());
}

// Every object is right, or refused. How many are refused; -1: one is wrong.
int refused_objects(const std::string& path, const Contents& contents) {
  AssetFile file;
  Scratch scratch;
  if (!scratch.open(Codec::zstd) || file.open(path.c_str()) != AssetProblem::none) return -1;
  int refused = 0;
  for (std::uint32_t i = 0; i < file.count(); ++i) {
    Bytes read(file.size_bytes(i));
    if (file.read(i, 0, read, scratch) != GetResult::ok) {
      ++refused;
    } else if (read != contents.at(std::string(file.name(i)))) {
      return -1;
    }
  }
  return refused;
}

}  // namespace

TEST_CASE("G12 G14 an asset file gives back every object by name and by number", "[paging]") {
  const TestDirectory directory;
  const std::string path = directory.path() + "/assets";
  const Contents contents = some_contents();
  for (const Codec codec : {Codec::lz4, Codec::zstd}) {
    REQUIRE(write_asset(path, contents, codec) == AssetProblem::none);
    AssetFile file;
    Scratch scratch;
    REQUIRE(scratch.open(codec));
    REQUIRE(file.open(path.c_str()) == AssetProblem::none);
    REQUIRE(file.count() == contents.size());
    std::uint32_t index = 0;
    for (const auto& [name, bytes] : contents) {
      REQUIRE(file.name(index) == name);
      REQUIRE(file.find(name) == index);
      REQUIRE(file.size_bytes(index) == bytes.size());
      Bytes read(bytes.size());
      REQUIRE(file.read(index, 0, read, scratch) == GetResult::ok);
      REQUIRE(read == bytes);
      ++index;
    }
    for (const char* missing : {"", "a", "object", "object 0/", "zzz"}) {
      REQUIRE(file.find(missing) == AssetFile::kNone);
    }
  }
  REQUIRE(directory.names() == std::vector<std::string>{"assets"});
}

TEST_CASE("an asset is read in any part", "[paging]") {
  const TestDirectory directory;
  const std::string path = directory.path() + "/assets";
  const Bytes bytes = make_object(Kind::text, 400'000, 9);
  REQUIRE(write_asset(path, {{"one", bytes}}) == AssetProblem::none);
  AssetFile file;
  Scratch scratch;
  REQUIRE(scratch.open(Codec::lz4));
  REQUIRE(file.open(path.c_str()) == AssetProblem::none);
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  for (int i = 0; i < 300; ++i) {
    const std::size_t offset = random.below(bytes.size() + 1);
    const std::size_t size = random.below(bytes.size() - offset + 1);
    Bytes read(size);
    REQUIRE(file.read(0, offset, {read.data(), size}, scratch) == GetResult::ok);
    REQUIRE(std::equal(read.begin(), read.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset)));
  }
}

TEST_CASE("mut-A14 0-24 no bit of an asset file can change unnoticed", "[paging]") {
  const TestDirectory directory;
  const std::string path = directory.path() + "/assets";
  const Contents contents{{"alpha", make_object(Kind::text, 3000, 1)},
                          {"beta", make_object(Kind::noise, 500, 2)},
                          {"gamma", make_object(Kind::word64, 900, 3)}};
  REQUIRE(write_asset(path, contents) == AssetProblem::none);
  const std::vector<char> good = load(path);
  REQUIRE(refused_objects(path, contents) == 0);
  unsigned refused_files = 0, unnoticed = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::vector<char> bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << i % 8));
    save(path, bad);
    if (open_problem(path) != AssetProblem::none) {
      ++refused_files;
    } else if (refused_objects(path, contents) != 1) {
      ++unnoticed;
    }
  }
  REQUIRE(unnoticed == 0);
  REQUIRE(refused_files > sizeof(AssetHeader) + 3 * sizeof(AssetObject));
  REQUIRE(refused_files < good.size());
}

TEST_CASE("mut-A14 an asset file of any other length is refused", "[paging]") {
  const TestDirectory directory;
  const std::string path = directory.path() + "/assets";
  REQUIRE(write_asset(path, {{"alpha", make_object(Kind::text, 3000, 1)}}) == AssetProblem::none);
  const std::vector<char> good = load(path);
  for (std::size_t length = 0; length < good.size(); ++length) {
    save(path, {good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)});
    const AssetProblem expected =
        length < sizeof(AssetHeader) ? AssetProblem::not_an_asset : AssetProblem::wrong_length;
    REQUIRE(open_problem(path) == expected);
  }
  std::vector<char> longer = good;
  longer.push_back(0);
  save(path, longer);
  REQUIRE(open_problem(path) == AssetProblem::wrong_length);
}

namespace {

// Checksums that fit whatever was changed, as somebody would make them who means harm.
void forge(std::vector<char>& bytes) {
  AssetHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto* const data = reinterpret_cast<const std::byte*>(bytes.data());
  if (header.directory_offset <= bytes.size() &&
      header.directory_bytes <= bytes.size() - header.directory_offset) {
    header.directory_checksum =
        checksum(data + header.directory_offset, header.directory_bytes, header.file_bytes);
  }
  header.header_checksum =
      checksum(reinterpret_cast<const std::byte*>(&header), offsetof(AssetHeader, header_checksum), 0);
  std::memcpy(bytes.data(), &header, sizeof header);
}

}  // namespace

TEST_CASE("mut-A14 an entry that points outside is refused, even under right checksums", "[paging]") {
  const TestDirectory directory;
  const std::string path = directory.path() + "/assets";
  const Contents contents{{"alpha", make_object(Kind::text, 100'000, 1)},
                          {"beta", make_object(Kind::noise, 500, 2)}};
  REQUIRE(write_asset(path, contents) == AssetProblem::none);
  const std::vector<char> good = load(path);
  AssetHeader header;
  std::memcpy(&header, good.data(), sizeof header);
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  unsigned opened = 0;
  for (int i = 0; i < 4000; ++i) {
    std::vector<char> bad = good;
    // A field of the header or the directory gets a value that is large, small, or near to what it was.
    const std::size_t field = random.one_in(4)
                                  ? 12 + random.below(48)
                                  : header.directory_offset + random.below(header.directory_bytes);
    const std::uint64_t values[] = {random.next(), random.below(16), ~std::uint64_t{0},
                                    std::uint64_t{1} << 63};
    const std::uint64_t value = values[random.below(4)];
    const std::size_t width = std::min<std::size_t>(std::size_t{1} << random.below(4), bad.size() - field);
    std::memcpy(bad.data() + field, &value, width);
    forge(bad);
    save(path, bad);
    AssetFile file;
    Scratch scratch;
    if (file.open(path.c_str()) != AssetProblem::none || !scratch.open(Codec::zstd)) continue;
    ++opened;
    // What opens can be read without harm; the checksums of the blocks are out of reach.
    for (std::uint32_t index = 0; index < file.count(); ++index) {
      Bytes read(file.size_bytes(index));
      if (file.read(index, 0, read, scratch) != GetResult::ok) continue;
      static_cast<void>(file.find(file.name(index)));
    }
  }
  INFO("opened " << opened);
  REQUIRE(opened < 4000);
}

TEST_CASE("an unknown version is refused by name", "[paging]") {
  const TestDirectory directory;
  const std::string path = directory.path() + "/assets";
  REQUIRE(write_asset(path, {{"alpha", make_object(Kind::text, 3000, 1)}}) == AssetProblem::none);
  std::vector<char> bytes = load(path);
  bytes[offsetof(AssetHeader, version)] = 2;
  forge(bytes);
  save(path, bytes);
  REQUIRE(open_problem(path) == AssetProblem::unknown_version);
  REQUIRE(std::string(asset_problem_text(AssetProblem::unknown_version)).find("version") !=
          std::string::npos);
  save(path, std::vector<char>(1000, 'x'));
  REQUIRE(open_problem(path) == AssetProblem::not_an_asset);
  REQUIRE(open_problem(directory.path() + "/missing") == AssetProblem::cannot_open);
}

TEST_CASE("G12 names are used once, and are not empty", "[paging]") {
  const TestDirectory directory;
  const std::string path = directory.path() + "/assets";
  Scratch scratch;
  REQUIRE(scratch.open(Codec::lz4));
  AssetWriter writer;
  REQUIRE(writer.open(path.c_str(), Codec::lz4) == AssetProblem::none);
  const Bytes bytes = make_object(Kind::text, 100, 1);
  REQUIRE(writer.add("", bytes.data(), bytes.size(), scratch) == AssetProblem::bad_name);
  REQUIRE(writer.add(std::string(5000, 'n'), bytes.data(), bytes.size(), scratch) == AssetProblem::bad_name);
  REQUIRE(writer.add("twice", bytes.data(), bytes.size(), scratch) == AssetProblem::none);
  REQUIRE(writer.add("twice", bytes.data(), bytes.size(), scratch) == AssetProblem::none);
  REQUIRE(writer.finish() == AssetProblem::bad_name);
  REQUIRE(writer.finish() == AssetProblem::cannot_write);
  REQUIRE(directory.names().empty());
}

TEST_CASE("an asset file is replaced as a whole or not at all", "[paging]") {
  const TestDirectory directory;
  const std::string path = directory.path() + "/assets";
  const Contents old{{"old", make_object(Kind::text, 3000, 1)}};
  REQUIRE(write_asset(path, old) == AssetProblem::none);
  {
    // Not finished.
    Scratch scratch;
    AssetWriter writer;
    REQUIRE(scratch.open(Codec::lz4));
    REQUIRE(writer.open(path.c_str(), Codec::lz4) == AssetProblem::none);
    const Bytes bytes = make_object(Kind::noise, 200'000, 1);
    REQUIRE(writer.add("new", bytes.data(), bytes.size(), scratch) == AssetProblem::none);
    REQUIRE(directory.names().size() == 2);
  }
  REQUIRE(refused_objects(path, old) == 0);
  REQUIRE(directory.names() == std::vector<std::string>{"assets"});
  // The disk fails.
  REQUIRE(in_child([&] {
            if (!refuse_call(SYS_pwrite64, ENOSPC)) return 1;
            return write_asset(path, {{"new", make_object(Kind::text, 10, 1)}}) == AssetProblem::cannot_write
                       ? 0
                       : 2;
          }) == 0);
  REQUIRE(in_child([&] {
            if (!refuse_call(SYS_fsync, EIO)) return 1;
            return write_asset(path, {{"new", make_object(Kind::text, 10, 1)}}) == AssetProblem::cannot_write
                       ? 0
                       : 2;
          }) == 0);
  REQUIRE(refused_objects(path, old) == 0);
  REQUIRE(directory.names() == std::vector<std::string>{"assets"});
  // A reader keeps the file that it opened.
  AssetFile reader;
  Scratch scratch;
  REQUIRE(scratch.open(Codec::lz4));
  REQUIRE(reader.open(path.c_str()) == AssetProblem::none);
  REQUIRE(write_asset(path, {{"new", make_object(Kind::text, 10, 1)}}) == AssetProblem::none);
  Bytes read(3000);
  REQUIRE(reader.read(0, 0, read, scratch) == GetResult::ok);
  REQUIRE(read == old.at("old"));
  REQUIRE(write_asset(directory.path() + "/missing/assets", old) == AssetProblem::cannot_write);
}
