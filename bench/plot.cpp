#include "bench/plot.h"

#include <algorithm>
#include <cmath>

#include <fmt/core.h>

namespace torture {
namespace {

constexpr const char* kColours[] = {"#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#7f7f7f",
                                    "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#bcbd22"};

const char* colour_of(std::size_t place) { return kColours[place % std::size(kColours)]; }

// Names come from the command line.
std::string escaped(const std::string& text) {
  std::string result;
  for (const char letter : text) {
    switch (letter) {
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '&':
        result += "&amp;";
        break;
      default:
        result += letter;
    }
  }
  return result;
}

struct Point {
  double x, y;
};

class Picture {
 public:
  Picture(double width, double height) {
    text_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
        "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        width, height);
  }

  void line(Point from, Point to, const char* colour) {
    text_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n",
                         from.x, from.y, to.x, to.y, colour);
  }
  // `anchor` is start, middle or end.
  void label(double x, double y, const std::string& text, const char* anchor) {
    text_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" fill=\"#222222\">{}</text>\n", x,
                         y, anchor, escaped(text));
  }
  void dot(double x, double y, const char* colour, const std::string& hint) {
    text_ +=
        fmt::format("<g><title>{}</title><circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\" fill=\"{}\"/></g>\n",
                    escaped(hint), x, y, colour);
  }
  void path(const std::string& points, const char* colour, bool dashed) {
    text_ += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"{}/>\n",
                         points, colour, dashed ? " stroke-dasharray=\"4 3\"" : "");
  }
  [[nodiscard]] std::string finish() const { return text_ + "</svg>\n"; }

 private:
  std::string text_;
};

// Where things stand in a panel.
struct Frame {
  double left, top, width, height;
};

constexpr double kRowHeight = 20;
constexpr double kOctaves = 3;  // the axis of ratios reaches from 1/8 to 8; dots beyond lie on the edge

double ratio_x(const Frame& frame, double ratio) {
  const double octave = std::clamp(std::log2(ratio), -kOctaves, kOctaves);
  return frame.left + frame.width * (octave + kOctaves) / (2 * kOctaves);
}

void draw_ratio_axis(Picture& picture, const Frame& frame, const std::string& title) {
  picture.label(frame.left + frame.width / 2, frame.top - 24, title, "middle");
  for (double octave = -kOctaves; octave <= kOctaves; ++octave) {
    const double x = ratio_x(frame, std::exp2(octave));
    picture.line({x, frame.top - 4}, {x, frame.top + frame.height}, octave == 0 ? "#555555" : "#dddddd");
    picture.label(x, frame.top - 8, fmt::format("{:g}", std::exp2(octave)), "middle");
  }
}

void label_failures(Picture& picture, Point place_of_text, const Comparison& comparison, const Row& row) {
  std::string names;
  for (std::size_t place = 0; place < row.cells.size(); ++place) {
    if (!row.cells[place].passed()) names += " " + comparison.allocators[place].name;
  }
  if (!names.empty()) picture.label(place_of_text.x, place_of_text.y, "FAIL:" + names, "start");
}

void draw_ratios(Picture& picture, const Frame& frame, const Comparison& comparison, const Metric& metric) {
  const std::string& reference = comparison.allocators[comparison.reference].name;
  draw_ratio_axis(picture, frame, fmt::format("{} / {}", metric.title, reference));
  for (std::size_t index = 0; index <= comparison.rows.size(); ++index) {
    const double y = frame.top + (static_cast<double>(index) + 0.5) * kRowHeight;
    const bool is_mean = index == comparison.rows.size();
    if (!is_mean) label_failures(picture, {frame.left + 4, y + 4}, comparison, comparison.rows[index]);
    for (std::size_t place = 0; place < comparison.allocators.size(); ++place) {
      if (place == comparison.reference) continue;
      std::optional<double> ratio;
      if (!is_mean) ratio = comparison.ratio(comparison.rows[index], place, metric);
      if (const auto mean = comparison.geometric_mean(place, metric); is_mean && mean) ratio = mean->ratio;
      if (!ratio || *ratio <= 0) continue;
      picture.dot(ratio_x(frame, *ratio), y, colour_of(place),
                  fmt::format("{} {:.2f}", comparison.allocators[place].name, *ratio));
    }
  }
}

double top_of(const std::vector<Soak>& soaks, double (*value)(const Message&)) {
  double top = 0;
  for (const Soak& soak : soaks) {
    for (const Message& sample : soak.samples) top = std::max(top, value(sample));
  }
  return top <= 0 ? 1 : top * 1.1;
}

double rss_mib(const Message& sample) { return static_cast<double>(sample.rss_kib) / 1024; }
double live_mib(const Message& sample) { return static_cast<double>(sample.live_bytes) / (1 << 20); }

struct Scale {
  double end_s;
  double top;
};

std::string series(const Frame& frame, const Scale& scale, const Soak& soak,
                   double (*value)(const Message&)) {
  std::string points;
  for (const Message& sample : soak.samples) {
    const double x = frame.left + frame.width * static_cast<double>(sample.wall_ns) / 1e9 / scale.end_s;
    const double y = frame.top + frame.height * (1 - std::min(value(sample) / scale.top, 1.0));
    points += fmt::format("{:.1f},{:.1f} ", x, y);
  }
  return points;
}

void draw_axes(Picture& picture, const Frame& frame, const Scale& scale, const std::string& title) {
  constexpr int kSteps = 5;
  picture.label(frame.left, frame.top - 10, title, "start");
  for (int step = 0; step <= kSteps; ++step) {
    const double share = static_cast<double>(step) / kSteps;
    const double y = frame.top + frame.height * (1 - share);
    const double x = frame.left + frame.width * share;
    picture.line({frame.left, y}, {frame.left + frame.width, y}, "#dddddd");
    picture.label(frame.left - 6, y + 4, fmt::format("{:.3g}", scale.top * share), "end");
    picture.label(x, frame.top + frame.height + 16, fmt::format("{:.3g} s", scale.end_s * share), "middle");
  }
}

}  // namespace

std::string plot_comparison(const Comparison& comparison) {
  constexpr double kNames = 150;
  constexpr double kPanel = 420;
  constexpr double kTop = 90;
  const double height = kRowHeight * static_cast<double>(comparison.rows.size() + 1);
  const double width = kNames + 2 * (kPanel + 50);
  Picture picture(width, kTop + height + 20);
  double legend_x = kNames;
  for (std::size_t place = 0; place < comparison.allocators.size(); ++place) {
    const std::string& name = comparison.allocators[place].name;
    if (place != comparison.reference) picture.dot(legend_x, 26, colour_of(place), name);
    picture.label(legend_x + 10, 30, place == comparison.reference ? name + " = 1" : name, "start");
    legend_x += 60 + 7 * static_cast<double>(name.size());
  }
  for (std::size_t index = 0; index <= comparison.rows.size(); ++index) {
    const double y = kTop + static_cast<double>(index) * kRowHeight;
    const bool is_mean = index == comparison.rows.size();
    picture.line({10, y}, {width - 10, y}, is_mean ? "#555555" : "#eeeeee");
    picture.label(kNames - 15, y + 14, is_mean ? "geometric mean" : comparison.rows[index].name, "end");
  }
  const std::vector<Metric>& metrics = all_metrics();
  draw_ratios(picture, Frame{kNames, kTop, kPanel, height}, comparison, metrics[kWall]);
  draw_ratios(picture, Frame{kNames + kPanel + 70, kTop, kPanel, height}, comparison, metrics[kPeakRss]);
  return picture.finish();
}

std::string plot_soaks(const std::vector<Soak>& soaks) {
  Picture picture(900, 720);
  double end_s = 1;
  for (const Soak& soak : soaks) {
    if (!soak.samples.empty())
      end_s = std::max(end_s, static_cast<double>(soak.samples.back().wall_ns) / 1e9);
  }
  const Frame memory{70, 70, 800, 320};
  const Frame overhead{70, 450, 800, 220};
  const Scale memory_scale{end_s, std::max(top_of(soaks, rss_mib), top_of(soaks, live_mib))};
  // While little is alive the quotient grows without limit; what lies above is drawn at the top.
  constexpr double kOverheadTop = 8;
  const Scale overhead_scale{end_s, std::min(top_of(soaks, rss_overhead), kOverheadTop)};
  draw_axes(picture, memory, memory_scale, "MiB: RSS (line), live requested bytes (dashed)");
  draw_axes(picture, overhead, overhead_scale, "RSS overhead: RSS above the start / live requested bytes");
  for (std::size_t place = 0; place < soaks.size(); ++place) {
    const char* const colour = colour_of(place);
    picture.path(series(memory, memory_scale, soaks[place], rss_mib), colour, false);
    picture.path(series(memory, memory_scale, soaks[place], live_mib), colour, true);
    picture.path(series(overhead, overhead_scale, soaks[place], rss_overhead), colour, false);
    const double x = 70 + 130 * static_cast<double>(place);
    picture.dot(x, 26, colour, soaks[place].allocator.name);
    picture.label(x + 10, 30, soaks[place].allocator.name, "start");
  }
  return picture.finish();
}

}  // namespace torture
