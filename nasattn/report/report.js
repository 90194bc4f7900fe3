"use strict";
// Unpacks Plotly, then draws each chart when it comes into view.
(async () => {
  const plots = [...document.querySelectorAll(".plot")];
  const packed = document.getElementById("plotly").textContent;
  let text;
  try {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    text = await new Response(stream).text();
  } catch (error) {
    for (const plot of plots) plot.textContent = "This chart needs a browser of 2023 or later.";
    return;
  }
  const script = document.createElement("script");
  script.textContent = text;
  document.head.append(script);

  const open = (key) => {
    const found = document.getElementById(`trial-${key}`);
    if (!found) return;
    document.querySelectorAll("details.found").forEach((one) => one.classList.remove("found"));
    found.open = true;
    found.classList.add("found");
    found.scrollIntoView({ behavior: "smooth", block: "center" });
  };
  const draw = (plot) => {
    if (plot.dataset.drawn) return;
    plot.dataset.drawn = "yes";
    const figure = JSON.parse(document.getElementById(plot.dataset.chart).textContent);
    const options = { responsive: true, displaylogo: false };
    Plotly.newPlot(plot, figure.data, figure.layout, options).then(() => {
      plot.on("plotly_click", (event) => {
        const key = event.points[0].customdata;
        if (key !== undefined && key !== null) open([].concat(key)[0]);
      });
    });
  };
  const seen = new IntersectionObserver(
    (entries) => entries.filter((one) => one.isIntersecting).forEach((one) => draw(one.target)),
    { rootMargin: "600px" },
  );
  plots.forEach((plot) => seen.observe(plot));
  window.addEventListener("beforeprint", () => plots.forEach(draw));
})();
