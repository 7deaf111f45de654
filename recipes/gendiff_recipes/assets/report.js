"use strict";

const webgl = (() => {
  try {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  } catch { return false; }
})();

// Players and 3D views of the blocks below an element.
function enliven(root) {
  // Sound: a cursor over the spectrogram, a click on it to go there, one player at a time.
  for (const sound of root.querySelectorAll(".sound")) {
    const audio = sound.querySelector("audio"), screen = sound.querySelector(".screen"), cursor = screen.querySelector("i");
    const draw = () => {
      cursor.style.left = `${100 * audio.currentTime / (audio.duration || 1)}%`;
      if (!audio.paused) requestAnimationFrame(draw);
    };
    audio.addEventListener("play", () => {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
      cursor.style.opacity = 0.9;
      draw();
    });
    audio.addEventListener("seeked", draw);
    audio.addEventListener("ended", () => { cursor.style.opacity = 0; });
    screen.addEventListener("click", event => {
      const box = screen.getBoundingClientRect();
      audio.currentTime = (event.clientX - box.left) / box.width * (audio.duration || 0);
      audio.play();
    });
  }

  // Structures: one 3D view a figure, filled when it comes into sight; without WebGL the picture stays.
  for (const figure of root.querySelectorAll(".structures")) {
    const stage = figure.querySelector(".stage"), picture = stage.querySelector("img"), hint = figure.querySelector("[data-hint]");
    const buttons = [...figure.querySelectorAll(".thumbs button")];
    const chains = JSON.parse(figure.querySelector("script").textContent);
    const palette = JSON.parse(document.getElementById("palette").textContent);
    const title = figure.querySelector("h3").textContent;
    let viewer = null, chosen = 0, shrunk = 1;

    const fit = () => { // zoomTo fills the height, whatever the width is
      const wanted = Math.min(1, stage.clientWidth / stage.clientHeight);
      viewer.zoom(wanted / shrunk);
      shrunk = wanted;
    };

    const show = index => {
      chosen = index;
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
      stage.setAttribute("aria-label", `${title}: ${buttons[index].querySelector("b").textContent}`);
      picture.src = buttons[index].querySelector("img").src;
      if (!viewer) return;
      const {pdb, highlight, turn} = chains[index];
      viewer.removeAllModels();
      const model = viewer.addModel(pdb, "pdb");
      const residues = [...new Set(model.selectedAtoms({}).map(atom => `${atom.chain}:${atom.resi}`))];
      const place = new Map(residues.map((residue, i) => [residue, i / Math.max(1, residues.length - 1)]));
      const colour = atom => palette[Math.round(place.get(`${atom.chain}:${atom.resi}`) * (palette.length - 1))];
      const motif = new Set(highlight);
      viewer.setStyle({}, {cartoon: {colorfunc: colour, arrows: true, opacity: 1}});
      if (motif.size) {
        viewer.setStyle({}, {cartoon: {color: "#b9bcc4", arrows: true}});
        viewer.setStyle({resi: [...motif]}, {cartoon: {colorfunc: colour, arrows: true}, stick: {radius: 0.14, colorfunc: colour}});
      }
      viewer.zoomTo();
      shrunk = 1;
      fit();
      const view = viewer.getView();
      view.splice(4, 4, ...turn);
      viewer.setView(view);
      viewer.render();
    };

    const start = () => {
      if (!webgl || !window.$3Dmol) throw new Error("no WebGL");
      const canvas = document.createElement("div");
      canvas.style.cssText = "position:absolute;inset:0";
      stage.append(canvas);
      viewer = $3Dmol.createViewer(canvas, {antialias: true, disableFog: false});
      viewer.setBackgroundColor(0xffffff, 0);
      picture.style.visibility = "hidden";
      hint.textContent = "Drag to turn, Ctrl and wheel to zoom";
      show(chosen);
      new ResizeObserver(() => { fit(); viewer.render(); }).observe(stage);
    };

    buttons.forEach((button, index) => button.addEventListener("click", () => show(index)));
    stage.addEventListener("wheel", event => { if (!event.ctrlKey) event.stopImmediatePropagation(); }, {capture: true});
    stage.addEventListener("keydown", event => {
      const turn = {ArrowLeft: ["y", -10], ArrowRight: ["y", 10], ArrowUp: ["x", -10], ArrowDown: ["x", 10]}[event.key];
      if (!turn || !viewer) return;
      event.preventDefault();
      viewer.rotate(turn[1], turn[0]);
      viewer.render();
    });
    new IntersectionObserver((entries, observer) => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      observer.disconnect();
      try { start(); } catch { stage.classList.add("flat"); hint.textContent = "No WebGL here: pictures instead of the 3D view"; }
    }, {rootMargin: "200px"}).observe(stage);
  }
}
