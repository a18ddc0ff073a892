#include "reports/html_chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "reports/html_page.h"

namespace meshparity::reports {
namespace {

constexpr double kLeft = 76, kRight = 24, kTop = 30, kBottom = 44;

std::string pixel(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", std::isfinite(value) ? value : 0.0);
  std::string out = text;
  if (out.size() > 2 && out.compare(out.size() - 2, 2, ".0") == 0) out.resize(out.size() - 2);
  return out;
}

std::string style_of(std::string_view colour) {
  return "var(--" + std::string(colour) + ")";
}

}  // namespace

std::string tick_text(double value) {
  char text[32];
  const double size = std::abs(value);
  if (size >= 1e6)
    std::snprintf(text, sizeof text, "%.3gM", value / 1e6);
  else if (size >= 1e4)
    std::snprintf(text, sizeof text, "%.3gk", value / 1e3);
  else
    std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

std::vector<double> Axis::ticks(int wanted) const {
  std::vector<double> out;
  if (logarithmic) {
    const double first = std::ceil(std::log10(low) - 1e-9), last = std::floor(std::log10(high) + 1e-9);
    double step = std::max(1.0, std::ceil((last - first) / wanted));
    for (double power = first; power <= last; power += step) out.push_back(std::pow(10.0, power));
    if (out.size() >= 2) return out;
    out.clear();
  }
  const double raw = (high - low) / std::max(1, wanted);
  if (!(raw > 0)) return {low};
  const double magnitude = std::pow(10.0, std::floor(std::log10(raw)));
  double step = raw / magnitude <= 1   ? magnitude
                : raw / magnitude <= 2 ? 2 * magnitude
                : raw / magnitude <= 5 ? 5 * magnitude
                                       : 10 * magnitude;
  if (logarithmic && high >= 2) step = std::max(step, 1.0);  // counts
  for (double value = std::ceil(low / step - 1e-9) * step; value <= high + 1e-9 * step; value += step)
    if (!logarithmic || value > 0) out.push_back(std::abs(value) < 1e-9 * step ? 0 : value);
  return out;
}

double Axis::share(double value) const {
  if (!(high > low)) return 0.5;
  if (!logarithmic) return (value - low) / (high - low);
  return std::log(std::max(value, low * 1e-3) / low) / std::log(high / low);
}

Axis axis_for(const std::vector<double>& values, std::string_view label, double most_linear) {
  Axis axis;
  axis.label = label;
  double least = HUGE_VAL, most = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    if (value > 0) least = std::min(least, value);
    most = std::max(most, value);
  }
  if (most <= 0) return axis;
  axis.logarithmic = most > most_linear * least;
  axis.low = axis.logarithmic ? std::max(least, most * 1e-9) / 1.3 : 0;
  axis.high = axis.logarithmic ? most * 1.3 : most * 1.06;
  if (axis.logarithmic) axis.label += ", logarithmic";
  return axis;
}

Chart::Chart(std::string_view title, std::string_view description, Axis x, Axis y, double height,
             double width)
    : title_(title),
      description_(description),
      x_(std::move(x)),
      y_(std::move(y)),
      width_(width),
      height_(height) {}

double Chart::at_x(double x) const {
  return kLeft + std::clamp(x_.share(x), 0.0, 1.0) * (width_ - kLeft - kRight);
}
double Chart::at_y(double y) const {
  return height_ - kBottom - std::clamp(y_.share(y), 0.0, 1.0) * (height_ - kTop - kBottom);
}
double Chart::pixels(double from, double to) const {
  return (x_.share(to) - x_.share(from)) * (width_ - kLeft - kRight);
}

std::string Chart::path(const std::vector<std::pair<double, double>>& points) const {
  std::string out;
  for (const auto& [x, y] : points) out += (out.empty() ? "M" : "L") + pixel(at_x(x)) + " " + pixel(at_y(y));
  return out;
}

void Chart::vertical(double x, std::string_view style, std::string_view label) {
  const bool document = style == "document", bad = style == "bad";
  marks_ += "<path d=\"M" + pixel(at_x(x)) + " " + pixel(kTop) + "V" + pixel(height_ - kBottom) +
            "\" stroke=\"" +
            style_of(bad        ? "bad"
                     : document ? "b"
                                : "grid") +
            "\"" +
            (bad        ? " stroke-width=\"1.6\" stroke-dasharray=\"5 4\""
             : document ? " stroke-dasharray=\"3 3\""
                        : "") +
            "/>\n";
  if (label.empty()) return;
  const bool right_half = at_x(x) > width_ / 2;
  marks_ += "<text x=\"" + pixel(at_x(x) + (right_half ? -6 : 6)) + "\" y=\"" + pixel(kTop + 12) +
            "\" text-anchor=\"" + (right_half ? "end" : "start") + "\">" + html_safe(label) + "</text>\n";
}

void Chart::line(const std::vector<std::pair<double, double>>& points, std::string_view colour,
                 double width) {
  if (points.size() == 1) return dot(points[0].first, points[0].second, 3, colour);
  marks_ += "<path fill=\"none\" stroke=\"" + style_of(colour) + "\" stroke-width=\"" + pixel(width) +
            "\" stroke-linejoin=\"round\" d=\"" + path(points) + "\"/>\n";
}

void Chart::band(const std::vector<std::pair<double, double>>& lower,
                 const std::vector<std::pair<double, double>>& upper, std::string_view colour) {
  std::vector<std::pair<double, double>> around = lower;
  around.insert(around.end(), upper.rbegin(), upper.rend());
  marks_ += "<path fill=\"" + style_of(colour) + "\" fill-opacity=\"0.18\" d=\"" + path(around) + "Z\"/>\n";
}

void Chart::bar(double from, double to, double y, std::string_view colour, std::string_view title) {
  const double left = at_x(from), right = at_x(to), top = at_y(y), foot = height_ - kBottom;
  if (foot - top < 0.05) return;
  marks_ += "<rect x=\"" + pixel(left) + "\" y=\"" + pixel(top) + "\" width=\"" +
            pixel(std::max(0.6, right - left - (right - left > 4 ? 1 : 0))) + "\" height=\"" +
            pixel(foot - top) + "\" fill=\"" + style_of(colour) + "\">" +
            (title.empty() ? "" : "<title>" + html_safe(title) + "</title>") + "</rect>\n";
}

void Chart::dot(double x, double y, double radius, std::string_view colour, std::string_view title) {
  marks_ += "<circle cx=\"" + pixel(at_x(x)) + "\" cy=\"" + pixel(at_y(y)) + "\" r=\"" + pixel(radius) +
            "\" fill=\"" + style_of(colour) + "\"" +
            (title.empty() ? "/>\n" : "><title>" + html_safe(title) + "</title></circle>\n");
}

void Chart::error_bar(double x, double low, double high, std::string_view colour) {
  marks_ += "<path stroke=\"" + style_of(colour) + "\" d=\"M" + pixel(at_x(x)) + " " + pixel(at_y(low)) +
            "V" + pixel(at_y(high)) + "\"/>\n";
}

void Chart::cells(const std::vector<std::pair<double, double>>& corners, double width, double height,
                  std::string_view colour) {
  if (corners.empty()) return;
  marks_ += "<path fill=\"" + style_of(colour) + "\" d=\"";
  for (const auto& [x, y] : corners) {
    const double left = at_x(x), right = at_x(x + width), foot = at_y(y), top = at_y(y + height);
    marks_ += "M" + pixel(left) + " " + pixel(top) + "h" + pixel(right - left + 0.2) + "v" +
              pixel(foot - top + 0.2) + "h" + pixel(left - right - 0.2) + "z";
  }
  marks_ += "\"/>\n";
}

void Chart::diagonal() {
  const double low = std::max(x_.low, y_.low), high = std::min(x_.high, y_.high);
  marks_ += "<path stroke=\"" + style_of("muted") + "\" stroke-dasharray=\"4 4\" d=\"" +
            path({{low, low}, {high, high}}) + "\"/>\n";
}

void Chart::key(const std::vector<std::pair<std::string, std::string>>& colours_and_names) {
  double x = kLeft;
  for (const auto& [colour, name] : colours_and_names) {
    marks_ += "<rect x=\"" + pixel(x) + "\" y=\"9\" width=\"14\" height=\"4\" fill=\"" + style_of(colour) +
              "\"/><text x=\"" + pixel(x + 20) + "\" y=\"15\">" + html_safe(name) + "</text>\n";
    x += 44 + 6.6 * static_cast<double>(name.size());
  }
}

std::string Chart::text() const {
  std::string grid;
  for (const double tick : y_.ticks(5)) {
    const std::string y = pixel(at_y(tick));
    grid += "<path stroke=\"var(--grid)\" d=\"M" + pixel(kLeft) + " " + y + "H" + pixel(width_ - kRight) +
            "\"/><text class=\"tick\" text-anchor=\"end\" x=\"" + pixel(kLeft - 8) + "\" y=\"" +
            pixel(at_y(tick) + 4) + "\">" + tick_text(tick) + "</text>\n";
  }
  for (const double tick : x_.ticks(width_ > 700 ? 8 : 5))
    grid += "<path stroke=\"var(--muted)\" d=\"M" + pixel(at_x(tick)) + " " + pixel(height_ - kBottom) +
            "v4\"/><text class=\"tick\" text-anchor=\"middle\" x=\"" + pixel(at_x(tick)) + "\" y=\"" +
            pixel(height_ - kBottom + 18) + "\">" + tick_text(tick) + "</text>\n";
  grid += "<path stroke=\"var(--muted)\" d=\"M" + pixel(kLeft) + " " + pixel(height_ - kBottom) + "H" +
          pixel(width_ - kRight) + "\"/>\n";
  const std::string labels = "<text class=\"tick\" text-anchor=\"end\" x=\"" + pixel(width_ - kRight) +
                             "\" y=\"" + pixel(height_ - 8) + "\">" + html_safe(x_.label) +
                             "</text>\n<text class=\"tick\" text-anchor=\"end\" transform=\"translate(13 " +
                             pixel(kTop) + ") rotate(-90)\">" + html_safe(y_.label) + "</text>\n";
  return "<figure>\n<svg viewBox=\"0 0 " + pixel(width_) + " " + pixel(height_) + "\" role=\"img\"" +
         (width_ < 700 ? " style=\"max-width:" + pixel(width_) + "px\"" : std::string()) + ">\n<title>" +
         html_safe(title_) + "</title>\n<desc>" + html_safe(description_) + "</desc>\n" + grid + marks_ +
         labels + "</svg>\n<figcaption>" + html_safe(description_) + "</figcaption>\n</figure>\n";
}

}  // namespace meshparity::reports
