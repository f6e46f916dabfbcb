// What happens in a forked child (namespace glebe::heap).
//
// fork never waits for a lock of ours and runs no prefork handler. The child's memory is a snapshot in which
// every thread's writes appear in program order up to some moment: the kernel shares each page with the child
// at the moment it write-protects it, so a write that the child does not see blocks its thread until fork is
// over, and with it every later write of that thread. Hence, in the child: a lock that is free guards
// consistent data; a lock held by the forking thread itself will be released by it; a lock held by another
// thread guards data that was being changed, and that structure is frozen: nothing is placed in it any more,
// its live blocks stay valid, what is freed to it is dropped. The loss is bounded by what was free in one
// structure at that moment.
#pragma once

namespace glebe::heap {

// The hook that runs in the child, while it has one thread.
void repair_in_child() noexcept;

}  // namespace glebe::heap
