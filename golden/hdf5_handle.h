// Owns one HDF5 identifier and turns HDF5's error stack into one line. Include only where libhdf5 is called.
#pragma once

#include <hdf5.h>

#include <string>
#include <utility>

namespace meshparity::golden {

// Closes whatever kind of object the identifier is. A negative identifier means that the call which made it
// failed.
class Handle {
 public:
  explicit Handle(hid_t id) : id_(id) {}
  ~Handle() {
    if (id_ >= 0) H5Idec_ref(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
};

// The deepest description on the current error stack, which is the one that tells the cause.
inline std::string hdf5_cause() {
  std::string cause;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned level, const H5E_error2_t* error, void* out) -> herr_t {
        if (level == 0 && error->desc) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &cause);
  return cause.empty() ? "unreadable" : cause;
}

}  // namespace meshparity::golden
